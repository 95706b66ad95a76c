"""`scoreonce watch`: curves of training runs in the terminal while `train` writes them.

In: metrics.jsonl and lineage.json of each run, and whether its lock is held. Out: a frame of text, again and again
until every run has ended. Nothing is written.
"""
