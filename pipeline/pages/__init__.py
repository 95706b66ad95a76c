"""What every HTML page shares: the template environment, styles, numbers as text.

In: plain data and tables. Out: one self-contained HTML string; a new chart goes into the `charts` module of its page.
"""
