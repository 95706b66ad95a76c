"""From hidden states to log-probs, without keeping logits.

In: the hidden states that predict each completion token, and an output head. Out: per token the log-prob and what else
one pass over the logits gives (entropy, KL from the reference, perturbed log-probs), and hidden states in 8 bits.
"""
