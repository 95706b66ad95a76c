"""Scoring the completions that the store lacks, for `score` and `evaluate` alike.

In: prepared pairs and a model. Out: rows of the store, and one row per pair.
"""
