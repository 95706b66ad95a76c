"""Decoding-time realignment (DeRa): sampling as a model would that was trained with another β.

A policy trained with β from a reference is π(y) ∝ ref(y) exp(r(y) / β). With β / λ it would be the geometric mixture

    π_λ(y) ∝ ref(y)^(1 − λ) π(y)^λ

which is taken token by token: softmax of (1 − λ) h_ref + λ h_π, of the logits h of both. λ = 0 is the reference, λ = 1
the policy, above 1 more aligned than the policy was trained to be. The mixture of whole sequences is approximated: each
next token is normalised by itself. (Liu et al. 2024, arXiv 2402.02992.)
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn


def mixture(policy: Tensor, reference: Tensor, weight: float) -> Tensor:
    """Logits of π_λ `(..., vocabulary)`, λ = `weight`, from the logits of policy and reference.

    A token that either of them rules out (logit -inf) is ruled out, unless λ is 0 or 1.
    """
    if weight == 1:
        return policy
    if weight == 0:
        return reference
    mixed = (1 - weight) * reference + weight * policy
    ruled_out = policy.isneginf() | reference.isneginf()
    return mixed.masked_fill(ruled_out, -torch.inf)


class Realignment:
    """A logits processor that mixes the policy's next-token distribution with that of a reference.

    It stands before all others, so that they treat the mixture as they would treat a model. The reference has a cache
    of its own. `logps` has the log-probs of the latest step, `(rows, vocabulary)`.
    """

    def __init__(self, reference: nn.Module, weight: float, attention_mask: Tensor) -> None:
        self.logps: Tensor | None = None
        self._reference, self._weight = reference, weight
        self._mask = attention_mask
        self._cache: Any = None
        names = inspect.signature(reference.forward).parameters
        self._cached = "past_key_values" in names
        self._takes_positions, self._takes_last = "position_ids" in names, "logits_to_keep" in names

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The mixture's logits `(rows, vocabulary)` in place of the policy's."""
        mixed = mixture(scores, self._reference_logits(input_ids), self._weight)
        self.logps = mixed.log_softmax(-1)
        return mixed

    def _reference_logits(self, input_ids: Tensor) -> Tensor:
        rows, width = input_ids.shape
        self._mask = torch.cat([self._mask, self._mask.new_ones(rows, width - self._mask.shape[1])], 1)
        new = slice(width - 1, width) if self._cache is not None else slice(None)
        options: dict[str, Any] = {"attention_mask": self._mask, "use_cache": self._cached}
        if self._takes_positions:
            options["position_ids"] = (self._mask.cumsum(1) - 1).clamp(min=0)[:, new]
        if self._cached:
            options["past_key_values"] = self._cache
        if self._takes_last:
            options["logits_to_keep"] = 1
        output = self._reference(input_ids=input_ids[:, new], **options)
        self._cache = output.past_key_values if self._cached else None
        last: Tensor = output.logits[:, -1].float()
        return last
