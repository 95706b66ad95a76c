"""Measures of pairs, computed in batches.

In: texts and token ids of pairs. Out: one number or flag per pair and measure.
"""
