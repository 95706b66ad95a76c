"""Models on disk.

In: a model folder or Hub name. Out: a loaded model or tokenizer, the digest that identifies its weights, and the
lineage of a policy.
"""
