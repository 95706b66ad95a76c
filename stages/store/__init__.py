"""The reference store: what one model computed about completions, addressed by content.

In: scores, hidden states, top-k log-probs and pooled states of completions. Out: the same by completion id, every byte
checked against its digest before it is used.
"""
