"""Stage `train`: a policy from cached columns.

In: prepared pairs and reference columns. Out: `train/<label>/` with metrics, step log, checkpoints and the model.
"""
