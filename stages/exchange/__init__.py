"""The reference's log-probs for other trainers, and theirs for `train`.

In: prepared pairs with their reference scores, or a dataset with the columns of TRL. Out: a dataset in the format of
another trainer, or the reference tables of a run.
"""
