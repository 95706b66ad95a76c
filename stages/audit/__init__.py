"""Stage `audit`: what is wrong with the pairs.

In: prepared pairs, and what later stages wrote. Out: `audit/` with a column per finding, a document and a page.
"""
