"""Attention of packed prompt rows, one module per kernel.

In: queries, keys and values of a packed sequence, and which row each position belongs to. Out: attention output, where
no row attends to another and no completion to another completion of its prompt.
"""
