"""Stage `evaluate`: a policy on held-out pairs.

In: a policy and the reference columns. Out: `evaluate/<label>/` with one row per pair and a summary.
"""
