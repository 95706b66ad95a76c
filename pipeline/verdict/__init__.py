"""What became of a training run, in one paragraph: one state that leads, findings beside it, and what to do.

In: `Facts`, plain figures of the training, its held-out pairs and its labels; `measures` and `series` make them of
tables. Out: a `Verdict`, as a paragraph, as plain values for JSON, and the table of all rules.
"""
