"""Held-out figures while training: on a fixed sample of held-out pairs, against the cached reference.

In: held-out pairs with their cached columns, and the policy at some steps of its training. Out: a row of figures per
evaluation, which step is the best, and whether training need not go on.
"""
