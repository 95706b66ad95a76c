"""Held-out pairs become figures.

In: a table of `EvaluationPair`. Out: accuracies and margins with 95 % intervals, overall and by source; and while a
policy is being trained, figures by step, which of them is the best, and when training need not go on.
"""
