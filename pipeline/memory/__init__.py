"""What training and scoring take of a GPU's memory, worked out without weights and without computing anything.

In: a model on the meta device, a micro-batch of prompt rows, and how many GPUs share the work. Out: bytes per GPU by
part, at each moment that can be the peak.
"""
