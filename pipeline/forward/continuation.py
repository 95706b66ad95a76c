"""Hidden states of completions that go on from the model's own cache of their prompt, and of plain batches.

Dimensions: tokens = completion tokens, completions, rows = prompts of a micro-batch, hidden.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionCacheLayerMixin
from transformers.utils import ModelOutput

from scoreonce.pipeline.batches.continued_rows import passes, start_of
from scoreonce.pipeline.batches.device_transfer import index_tensor, moved
from scoreonce.pipeline.batches.prompt_rows import PADDING, Batch, PromptRow, collate
from scoreonce.pipeline.head.token_scores import Routing

CACHES = (Cache, CacheLayerMixin, LinearAttentionCacheLayerMixin)
NAMES = ("past_key_values", "cache_params")  # of a cache, in what a model returns and what it takes


class States(NamedTuple):
    """The hidden states that predict the completion tokens of a micro-batch, in the order of its rows."""

    hidden: Float[Tensor, "tokens hidden"]
    targets: Int[Tensor, "tokens"]
    lengths: Int[Tensor, "completions"]
    routing: Routing | None = None


def predicting(output: ModelOutput, batch: Batch) -> Float[Tensor, "tokens hidden"]:
    """The hidden states at the positions that predict a completion token."""
    states: Tensor = output.last_hidden_state
    return states.flatten(0, 1).index_select(0, batch.predicts)


def continued(body: nn.Module, rows: Sequence[PromptRow], device: torch.device) -> States:
    """The states of a micro-batch of the layout "continued", see `continued_rows`, from a model without its head.

    Raises `ValueError` with gradients switched on, which do not go through a cache, and where the model returns none.
    """
    if torch.is_grad_enabled():
        raise ValueError("no gradients go through a cache")
    start = start_of(rows)
    cache = _cache_of(body, [row.prompt[:start] for row in rows], device) if start else {}
    rest = [PromptRow(row.prompt[start:], (completion,)) for row in rows for completion in row.completions]
    owners = [number for number, row in enumerate(rows) for _ in row.completions]
    found: list[Tensor | None] = [None] * len(rest)
    for numbers in passes([each.tokens for each in rest]):
        batch = collate([rest[number] for number in numbers], "padded").to(device)
        if cache:
            own = index_tensor([owners[number] for number in numbers], device)
            options = {name: copy_for(value, len(rows), own) for name, value in cache.items()}
            output = body(input_ids=batch.input_ids, use_cache=True, **options, **_positions(body, batch, start))
        else:
            output = body(input_ids=batch.input_ids, attention_mask=(batch.segments != PADDING).long(), use_cache=False)
        lengths = [len(rest[number].completions[0]) for number in numbers]
        for number, states in zip(numbers, predicting(output, batch).split(lengths), strict=True):
            found[number] = states
    completions = [each.completions[0] for each in rest]
    return States(
        torch.cat([states for states in found if states is not None]),
        moved(torch.from_numpy(np.concatenate(completions).astype(np.int64)), device),
        index_tensor([len(completion) for completion in completions], device),
    )


def copy_for(value: Any, rows: int, owners: Int[Tensor, "completions"]) -> Any:
    """A cache of the sequences `owners` of a cache of so many `rows`, which stays as it is.

    transformers' own methods for this leave states of some layers out, where these have both attention and states.
    """
    if isinstance(value, Tensor):
        return value.index_select(0, owners) if value.dim() > 1 and len(value) == rows else value
    if isinstance(value, dict):
        return {key: copy_for(each, rows, owners) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([copy_for(each, rows, owners) for each in value])
    if isinstance(value, CACHES):
        copied = copy.copy(value)
        vars(copied).update(copy_for(vars(value), rows, owners))
        return copied
    return value


def _cache_of(body: nn.Module, prompts: Sequence[Any], device: torch.device) -> dict[str, Any]:
    """The cache of prompts of one length, by its name."""
    ids = moved(torch.from_numpy(np.stack(prompts).astype(np.int64)), device)
    output = body(input_ids=ids, use_cache=True)
    found = {name: output[name] for name in NAMES if output.get(name) is not None}
    if not found:
        raise ValueError("the model returns no cache")
    return found


def _positions(body: nn.Module, batch: Batch, start: int) -> dict[str, Tensor]:
    """Positions that go on after `start`, for a model that takes some: Bamba's own would begin at 0 again."""
    takes = "position_ids" in inspect.signature(body.forward).parameters
    return {"position_ids": batch.position_ids + start} if takes else {}
