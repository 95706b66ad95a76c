"""Held-out pairs become figures.

In: a table of `EvaluationPair`. Out: accuracies and margins with 95 % intervals, overall and by source.
"""
