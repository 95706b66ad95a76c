"""The report on training runs.

In: `ReportData`, the records of runs. Out: one HTML page.
"""
