"""Models on disk.

In: a model folder or Hub name, and what the run file says of adapters. Out: a loaded model or tokenizer, or its shape
without weights, and the lineage of a policy.
"""
