"""Prepared pairs and what stages made of them, on disk.

In: the files of a run. Out: token ids by memory map, pair tables with everything known about a pair, step logs and
evaluations, and manifests that are checked against their files and the run file.
"""
