"""Stage `score`: the reference model, once.

In: prepared pairs. Out: the reference store and `reference/` with one row per pair.
"""
