"""What the stages of a run take of each GPU, worked out without weights.

In: a run, its model's config.json, the lengths of its pairs if they are prepared. Out: peaks by part, and whether a
model has to be shared out.
"""
