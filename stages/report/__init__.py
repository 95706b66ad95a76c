"""Stage `report`: one page about all runs.

In: what the other stages wrote. Out: `report.html`.
"""
