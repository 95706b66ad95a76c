"""The data audit: measures of every pair, checks on them, and what later stages add.

In: tables of pairs. Out: one document of findings and figures. `measures` come first, one value per pair; `checks` are
expressions over them; `summary` counts and ranks the results.
"""
