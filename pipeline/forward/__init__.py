"""The forward pass that `score`, `train` and `evaluate` share.

In: prompt rows and a causal language model. Out: log-probs of every completion token, and what else one pass over the
logits gives (entropy, KL from the reference, perturbed log-probs).
"""
