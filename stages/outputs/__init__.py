"""A run whose `out` is an address: its files are made in a local copy, fetched before a stage and published after it.

In: the paths of a run, and which files a stage reads and writes. Out: those files in the local copy, and at the address
whole results or none. A run in a local folder passes through untouched.
"""
