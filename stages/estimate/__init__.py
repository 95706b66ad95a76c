"""What scoring and training will take, without weights and without a GPU.

In: a run file, the model's config.json, the lengths of the pairs if they are prepared. Out: bytes per GPU by part,
what fits, which setting to change, time per epoch.
"""
