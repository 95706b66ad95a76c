"""One micro-batch through a model on the meta device: what the body keeps and takes, and how much it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from scoreonce.pipeline.attention.cpu_features import onednn_is_faster
from scoreonce.pipeline.attention.cpu_rows import RowMask
from scoreonce.pipeline.attention.language_model import attention_of
from scoreonce.pipeline.attention.last_layer import skip_unused_output
from scoreonce.pipeline.batches import continued_rows
from scoreonce.pipeline.batches.prompt_rows import Batch, PromptRow, RowLayout, collate
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.continuation import continued
from scoreonce.pipeline.memory.allocations import Allocations
from scoreonce.pipeline.memory.stand_in_attention import attend_without_computing


@dataclass(frozen=True)
class MicrobatchMemory:
    """Bytes of a micro-batch in a model without its output head; weights are not counted."""

    positions: int  # of all sequences, padding included
    predicted: int  # completion tokens
    kept: int  # by the end of the forward pass, for the backward pass
    peak: int  # the largest of both passes, without gradients of weights
    gradients_at_peak: int  # of the weights, then
    flops: int  # matrix products of the forward pass, those of attention's scores left out


def microbatch_memory(
    model: nn.Module,
    rows: Sequence[PromptRow],
    layout: RowLayout,
    *,
    device: str,
    trains: bool,
    accumulates: bool = True,
    multiple: int = 1,
) -> MicrobatchMemory:
    """What `rows` take as one micro-batch of `model`, a model on the meta device, were it on `device`: "cpu" or "cuda".

    A model that `trains` runs backward too; where it `accumulates`, gradients of earlier micro-batches are there and
    only a new one beside them counts. Attention of the model is replaced. Of "continued" rows the largest of the
    micro-batches that they make counts, and nothing trains. Raises `ValueError` where the model's attention cannot be
    replaced, and what the model raises where its size depends on values.
    """
    if layout == "continued":
        return _continued(model, rows)
    lm, batch = architecture.causal_lm(model), collate(rows, layout, multiple)
    mask = _prepared(lm, rows, batch, layout, device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad] if trains else []
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter) if accumulates else None
    known = [*model.parameters(), *model.buffers(), *(p.grad for p in trained if p.grad is not None)]
    allocations = Allocations(known=known)
    hooks = [p.register_post_accumulate_grad_hook(allocations.add_gradient) for p in trained if p.grad is None]
    try:
        return _run(lm, batch, mask, allocations, trains=trains)
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in trained:
            parameter.grad = None


def _run(
    lm: PreTrainedModel, batch: Batch, mask: Tensor, allocations: Allocations, *, trains: bool
) -> MicrobatchMemory:
    ids, places, predicts = (each.to("meta") for each in (batch.input_ids, batch.position_ids, batch.predicts))
    counter = _counter()
    with torch.set_grad_enabled(trains), allocations:
        with counter:
            output = architecture.body_of(lm)(
                input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False
            ).last_hidden_state
        hidden = output.flatten(0, 1).index_select(0, predicts)
        del output
        kept = allocations.live
        if trains:
            hidden.backward(torch.empty_like(hidden))
    at_peak = allocations.gradients_at_peak
    return MicrobatchMemory(
        batch.input_ids.numel(),
        len(batch.predicts),
        kept,
        allocations.peak - at_peak,
        at_peak,
        counter.get_total_flops(),
    )


def _continued(model: nn.Module, rows: Sequence[PromptRow]) -> MicrobatchMemory:
    """Of the micro-batch that computes most, with the caches from which its completions go on."""
    lm, budget = architecture.causal_lm(model), sum(row.tokens for row in rows)
    laid_out = continued_rows.laid_out(rows, budget)
    batches = [
        [laid_out[number] for number in batch] for batch in continued_rows.continued_microbatches(laid_out, budget)
    ]
    largest = max(batches, key=continued_rows.computed_positions)
    if attention_of(lm) != "eager":
        attend_without_computing(lm, keeps_output=True, repeats_keys=True)
    counter, allocations = _counter(), Allocations(known=[*model.parameters(), *model.buffers()])
    with torch.no_grad(), allocations, counter:
        states = continued(architecture.body_of(lm), largest, torch.device("meta"))
    return MicrobatchMemory(
        continued_rows.computed_positions(largest),
        len(states.targets),
        allocations.live,
        allocations.peak,
        0,
        counter.get_total_flops(),
    )


def _prepared(lm: PreTrainedModel, rows: Sequence[PromptRow], batch: Batch, layout: RowLayout, device: str) -> Tensor:
    """The mask, with the model's attention replaced, and with its last block as lazy as on that device."""
    if attention_of(lm) != "eager":  # which keeps scores, and is run as it is
        by_products = device == "cpu" and layout == "packed" and onednn_is_faster()
        attend_without_computing(lm, keeps_output=not by_products, repeats_keys=layout not in ("flex", "flash"))
    if device == "cpu" and layout == "packed":
        skip_unused_output(lm)
        return RowMask.of(rows, batch)
    sequences, length = batch.input_ids.shape
    return torch.empty(sequences, 1, length, length, dtype=torch.bool, device="meta")


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: _grouped_flops})


def _grouped_flops(left: Any, right: Any, *_: Any, **__: Any) -> int:
    """Of a product of (rows, inner) with one of several (inner, columns) per row: experts that rows are routed to."""
    return int(2 * left[0] * left[1] * right[-1])
