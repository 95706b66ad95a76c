"""The reference store: what a model says about completions, addressed by content.

In: scores, hidden states, top-k log-probs and pooled states of completions. Out: the same by completion id, checked
against their digests.
"""
