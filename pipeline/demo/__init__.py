"""The demo's synthetic task with a known reward.

In: a seed. Out: prompts and training texts; the true reward of any text, and noisy labels drawn from it.
"""
