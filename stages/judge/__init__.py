"""Stage `judge`: sampled completions judged by a reward model, a language model at an endpoint, or a Python function.

In: the samples of one label, or of two for the same prompts. Out: `judge/<name>/` with a score per completion, or an
answer per comparison in both orders, and the figures; or the samples in the format of another tool.
"""
