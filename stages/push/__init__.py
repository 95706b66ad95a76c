"""A trained policy to a repository of the Hugging Face Hub.

In: the folder that `train` or `merge` wrote, and what `evaluate` and `audit` found. Out: one commit of its files, with
a model card.
"""
