"""The files of models: whether they are whole, finite and the same as before.

In: a model folder, or what transformers says of loading one. Out: digests that identify weights, and errors that name
what is missing or damaged.
"""
