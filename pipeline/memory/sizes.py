"""All that the peak of a stage is worked out from, counted on a model without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from scoreonce.pipeline.batches.prompt_rows import PromptRow, RowLayout
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.memory.head_memory import HeadMemory, head_memory
from scoreonce.pipeline.memory.microbatch import MicrobatchMemory, microbatch_memory
from scoreonce.pipeline.memory.weights import Weights, weights_of


@dataclass(frozen=True)
class Sizes:
    """A model and the largest micro-batch that goes through it."""

    weights: Weights
    microbatch: MicrobatchMemory
    head: HeadMemory
    element: int  # bytes of a value in the forward pass
    accumulates: bool  # whether gradients of earlier micro-batches are there
    head_weights: int
    attention_width: int  # of all heads of all layers


def sizes_of(
    model: nn.Module,
    rows: Sequence[PromptRow],
    layout: RowLayout,
    *,
    device: str,
    trains: bool,
    accumulates: bool = True,
    distributions: bool = False,
    multiple: int = 1,
) -> Sizes:
    """Those of `rows` through `model`, a model on the meta device, were it on `device`: "cpu" or "cuda".

    A model that does not train is scored with statistics. `distributions`: whole distributions of the reference are
    read. Raises what `microbatch_memory` raises.
    """
    lm = architecture.causal_lm(model)
    microbatch = microbatch_memory(
        model, rows, layout, device=device, trains=trains, accumulates=accumulates, multiple=multiple
    )
    head = architecture.head_of(lm)
    chunk = head_memory(
        head,
        microbatch.predicted,
        device=device,
        trains=trains,
        statistics=not trains,
        distributions=distributions,
    )
    config = architecture.settings(lm)
    heads = config.get("num_attention_heads") or config.get("n_head") or 0
    width = config.get("head_dim") or (lm.config.get_text_config().hidden_size // heads if heads else 0)
    return Sizes(
        weights_of(model),
        microbatch,
        chunk,
        lm.dtype.itemsize,
        accumulates,
        head.weight.numel(),
        heads * width * lm.config.get_text_config().num_hidden_layers,
    )


def forward_operations(sizes: Sizes, positions: int, predicted: int, visible: int) -> float:
    """Floating-point operations of a forward pass over some rows; a product of (m, k) with (k, n) counts 2 m k n.

    `positions` in the body, `predicted` completion tokens, `visible` pairs of a query and a key that it attends to.
    """
    body = sizes.microbatch.flops / sizes.microbatch.positions * positions
    return body + 2 * sizes.head_weights * predicted + 4 * sizes.attention_width * visible
