"""Stage `prepare`: a dataset becomes token pairs.

In: raw rows. Out: `pairs/` with token ids, a held-out split and a quarantine.
"""
