"""Exact sampling from random numbers that belong to a completion, not to its batch.

The token with the largest log p + g, where g is Gumbel noise, one number a token of the vocabulary, is a sample of p
(Gumbel 1954; "Gumbel-max"). Each row has a generator, keyed by seed, prompt and number of the sample: the order and the
batching of prompts change no noise. Two models that read the same noise write the same text as long as they agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

NUMBERS_AT_ONCE = 1 << 14


def noise_seed(seed: int, prompt_id: str, sample: int) -> int:
    """The 64-bit seed of one completion's noise."""
    digest = hashlib.blake2b(f"{seed}:{prompt_id}:{sample}".encode(), digest_size=8, person=b"sample").digest()
    return int.from_bytes(digest, "little")


class GumbelNoise:
    """A logits processor that adds Gumbel noise, the noise of each row from a generator of its own.

    It stands behind all others. On one kind of device the same seeds give the same noise.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._steps: list[Tensor] = []  # the noise of the steps to come, (rows, vocabulary) each, the next one last

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The noisy scores `(rows, vocabulary)`, in float64."""
        if not self._steps:
            self._steps = list(self._drawn(scores.shape[1], scores.device).unbind(1))[::-1]
        return scores.double() + self._steps.pop()

    def _drawn(self, vocabulary: int, device: torch.device) -> Tensor:
        """Noise `(rows, steps, vocabulary)`: of several steps where the vocabulary is small, for a call has its cost.

        In float32 a uniform number is 0 once in 2²⁴, which with a vocabulary of 150,000 is at one token in a hundred.
        """
        steps = max(1, NUMBERS_AT_ONCE // vocabulary)
        uniform = torch.empty(len(self._generators), steps, vocabulary, dtype=torch.float64, device=device)
        for row, generator in zip(uniform, self._generators, strict=True):
            row.uniform_(generator=generator)
        return uniform.log_().neg_().log_().neg_()
