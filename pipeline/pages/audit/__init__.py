"""The page of a data audit.

In: the audit document and the texts that it names. Out: one HTML page.
"""
