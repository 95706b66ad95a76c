"""What every HTML page shares: the template environment, styles, numbers as text.

In: plain data and tables. Out: one self-contained HTML string; a new chart is made with `charts`, in the
room of its page.
"""
