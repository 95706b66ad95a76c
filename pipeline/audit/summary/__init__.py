"""The audit as one document.

In: pairs with their check columns. Out: findings, distributions, shortcuts and figures by source, as plain data and as
lines for a terminal.
"""
