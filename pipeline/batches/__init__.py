"""From token ids to tensors.

In: prompt rows, each a prompt with its completions. Out: micro-batches of packed or padded sequences, on a device.
"""
