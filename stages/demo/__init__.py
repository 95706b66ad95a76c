"""The steps of `make demo`.

In: a run file. Out: a synthetic dataset, a tokenizer and a model, sampled pairs, and the true reward of every policy.
"""
