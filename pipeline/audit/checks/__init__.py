"""Checks of pairs, as polars expressions.

In: the measures of a pair, its reference columns and its training log. Out: boolean columns, one per check, and the
layers that add the columns of later stages.
"""
