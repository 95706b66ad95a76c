"""The demo's synthetic task with a known reward.

In: a seed. Out: prompts, texts, true rewards and noisy labels.
"""
