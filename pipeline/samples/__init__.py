"""What sampled completions say of the model that wrote them.

In: a table of `Sample`, or rewards of completions. Out: length, repetition and diversity, the KL divergence from the
reference with its standard error, and the reward of the best of n completions.
"""
