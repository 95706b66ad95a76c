"""Completions that a model writes, by transformers' `generate` with its cache of keys and values.

In: a loaded model, the token ids of prompts, and a seed of each completion. Out: token ids, each completion drawn from
random numbers of its own, so that it does not depend on which others stand in its batch.
"""
