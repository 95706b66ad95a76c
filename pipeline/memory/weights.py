"""The weights of a model, counted by what happens to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from scoreonce.pipeline.attention.last_layer import blocks
from scoreonce.pipeline.forward import architecture

FLOAT32 = 4
# NF4 with double quantisation: 4 bits, a scale of 8 bits per 64 weights, and a float32 scale per 256 of those.
NF4_BYTES = 0.5 + 1 / 64 + FLOAT32 / (64 * 256)


@dataclass(frozen=True)
class WeightCount:
    """Some weights of a model. Tied ones count once."""

    count: int
    bytes: int
    trained: int  # number
    trained_bytes: int
    trained_half: int  # number of trained weights in half precision, which have a float32 master


@dataclass(frozen=True)
class Weights:
    """The weights of a model."""

    whole: WeightCount
    blocks: int  # number of transformer blocks
    block: WeightCount  # the largest of them
    outside: WeightCount  # of all blocks: embeddings, last norm, output head
    largest_trained: int  # number of weights in the largest trained tensor
    largest_linear: int  # in the largest linear layer of a block
    frozen_linear: int  # in linear layers of blocks, where they are not trained
    frozen_linear_bytes: int
    tied: bool  # whether embeddings and output head are one


def weights_of(model: nn.Module) -> Weights:
    """Count the weights of a model, on any device, with LoRA matrices or without."""
    lm = architecture.causal_lm(model)
    inner = [count_of(block.parameters()) for block in blocks(lm)]
    in_blocks = {id(parameter) for block in blocks(lm) for parameter in block.parameters()}
    linear = [
        layer.weight
        for block in blocks(lm)
        for layer in block.modules()
        if isinstance(layer, nn.Linear) and layer.weight.ndim == 2
    ]
    frozen = count_of(weight for weight in linear if not weight.requires_grad)
    embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    return Weights(
        count_of(model.parameters()),
        len(inner),
        max(inner, key=lambda part: part.bytes, default=count_of([])),
        count_of(parameter for parameter in model.parameters() if id(parameter) not in in_blocks),
        max((p.numel() for p in model.parameters() if p.requires_grad), default=0),
        max((weight.numel() for weight in linear), default=0),
        frozen.count,
        frozen.bytes,
        embedding is not None and head is not None and embedding.weight is head.weight,
    )


def count_of(parameters: Iterable[Tensor]) -> WeightCount:
    """Count some weights."""
    distinct = list({id(parameter): parameter for parameter in parameters}.values())
    trained = [parameter for parameter in distinct if parameter.requires_grad]
    return WeightCount(
        sum(each.numel() for each in distinct),
        sum(each.nbytes for each in distinct),
        sum(each.numel() for each in trained),
        sum(each.nbytes for each in trained),
        sum(each.numel() for each in trained if each.element_size() < FLOAT32),
    )
