"""Models on disk.

In: a folder or a Hub name. Out: a loaded model or tokenizer, and the digest that identifies its weights.
"""
