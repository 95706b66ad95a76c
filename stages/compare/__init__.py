"""Stage `compare`: several trainings on the same pairs and scores, and which to take.

In: a run file with [compare]. Out: trainings under labels of their own, and `compare/` with table, summary and page.
"""
