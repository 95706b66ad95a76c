"""What the output head takes: logits of one chunk of tokens at a time, and the gradient of its weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scoreonce.pipeline.head.log_probs import Head, chunk_tokens
from scoreonce.pipeline.memory.weights import FLOAT32

# Tensors of a chunk's size at once, on a CPU: log-probs make a second one of their exponentials, statistics a third
# (`log_probs._with_statistics`), the gradient a second.
CPU_LOG_PROBS, CPU_STATISTICS, CPU_GRADIENT = 2, 3, 2
# Where the reference's whole distributions are read, nothing is fused: logits of both, log-probs, their gap, shares.
WITH_REFERENCE = 5


@dataclass(frozen=True)
class HeadMemory:
    """Bytes that the head takes while a micro-batch goes through it; its weight is not counted."""

    chunk: int  # logits of one chunk and what is made of them
    gradient: int  # of the weight, in float32 as a sum over chunks, or with its copy in the weight's dtype
    kept_gradient: int  # what is left of that: the gradient in the weight's dtype; 0 where it is not trained


def head_memory(
    head: Head, predicted: int, *, device: str, trains: bool, statistics: bool = False, distributions: bool = False
) -> HeadMemory:
    """Of `predicted` tokens, were the head on `device`: "cpu" or "cuda".

    `trains`: the backward pass runs too; `statistics` and `distributions` as `head.token_columns` is asked for them.
    """
    vocabulary, width = head.weight.shape
    size, tokens = head.weight.element_size(), chunk_tokens(vocabulary, torch.device(device))
    logits = min(predicted, tokens) * vocabulary * FLOAT32
    # The last chunk's logits, and what their gradient was, are there until the next one's have been made.
    more = predicted > tokens
    if distributions:
        one = several = WITH_REFERENCE * logits
    elif device == "cpu":
        forward = CPU_STATISTICS if statistics else CPU_LOG_PROBS
        one = (max(forward, CPU_GRADIENT) if trains else forward) * logits
        several = max(one, (CPU_GRADIENT + 1) * logits) if trains and more else one
    else:  # fused; the gradient of the logits is of the model's dtype
        one = logits + (logits * size // FLOAT32 if trains else 0)
        several = one + logits * more
    whole = vocabulary * width
    if device == "cpu" and size < FLOAT32:  # products of half precision are made of float32 copies
        one, several = one + whole * FLOAT32, several + whole * FLOAT32
    if not (trains and head.weight.requires_grad):
        return HeadMemory(several, 0, 0)
    copied = whole * size if size < FLOAT32 else 0  # when the last chunk is done
    if several >= one + copied:
        return HeadMemory(several, whole * FLOAT32, whole * size)
    return HeadMemory(one, whole * FLOAT32 + copied, whole * size)
