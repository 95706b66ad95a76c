"""Ray, for the stages that spread their work over a cluster.

In: a run file, and what every machine has to see alike. Out: a connection to Ray, a process of it that sees what the
command sees, an executor of its tasks.
"""
