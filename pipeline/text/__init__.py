"""A raw row becomes token ids.

In: rows of a dataset as plain Python values. Out: pairs of token ids with their identities, or the reason why a row
is unusable.
"""
