"""The page of a comparison.

In: standings and the figures of each training. Out: HTML, and the decision in words.
"""
