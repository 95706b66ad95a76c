"""Bytes of a GPU by part, at each moment that can be the peak.

Three moments of a training step: the backward pass begins, in the output head, with all activations there; it goes
through the blocks, where gradients grow as activations are given back; the optimizer steps, without activations.
Scoring has one, a forward pass. On a CPU weights are copied before, beside their mapped file: to huge pages, or for
scoring into another order. A part that a moment has nothing of is left out.

Whole weights on each GPU (DDP): half-precision weights have float32 masters, and DDP copies gradients into buckets of
its own. Sharding (FSDP2): each GPU has its share of float32 weights, gradients and optimizer state, whatever the dtype
of the forward pass, and beside them what is gathered at a time. "full" shares out over all GPUs, "hybrid" over those of
a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scoreonce.pipeline.memory.optimizer_memory import state_size, step_bytes
from scoreonce.pipeline.memory.sizes import Sizes
from scoreonce.pipeline.memory.weights import FLOAT32, NF4_BYTES, WeightCount, Weights

Shard = Literal["none", "full", "hybrid"]
Parts = dict[str, int]  # bytes by name
# Blocks that are gathered at a time: the one at work and the next.
GATHERED = 2


@dataclass(frozen=True)
class Plan:
    """How training and scoring are spread."""

    device: str  # "cpu" or "cuda"
    gpus: int
    shard: Shard
    nf4: bool = False  # frozen weights of linear layers in 4 bits
    per_machine: int | None = None  # GPUs, which "hybrid" shares out over; all of them where it is not given
    offload: bool = False  # of a sharded model: parts, their gradients and optimizer state are in host memory
    offload_optimizer: bool = False  # of a whole model: optimizer state and float32 masters of all trained weights are
    lays_out: bool = False  # scoring first stores float32 linear layers in another order (`cpu_matmul`)
    moves: bool = False  # weights first move to huge pages

    @property
    def sharded(self) -> bool:
        """Whether each GPU has a part of the weights."""
        return self.shard != "none"

    @property
    def group(self) -> int:
        """GPUs that hold a model together."""
        return {"none": 1, "full": self.gpus, "hybrid": self.per_machine or self.gpus}[self.shard]


@dataclass(frozen=True)
class Peak:
    """The moment that takes most, and what it takes."""

    moment: str
    parts: Parts
    host: int = 0  # bytes of host memory for what is offloaded

    @property
    def bytes(self) -> int:
        """Of all parts."""
        return sum(self.parts.values())


def training_peak(
    sizes: Sizes, plan: Plan, *, optimizer: str, decays: bool = False, extra: Mapping[str, int] | None = None
) -> Peak:
    """The peak of a training step on one GPU. `decays`: with weight decay. `extra` parts are there all the time."""
    weights, microbatch, head = sizes.weights, sizes.microbatch, sizes.head
    accumulates, element = sizes.accumulates, sizes.element
    trained, share = weights.whole.trained, plan.group
    offloaded = plan.offload_optimizer and plan.device == "cuda"
    kept: Parts = {
        **_weights(weights, plan),
        "optimizer state": 0 if offloaded else round(state_size(optimizer).per_weight * trained / share),
    }
    always: Parts = {**({} if plan.offload else kept), **(extra or {})}
    gradients = stepped = FLOAT32 * trained // share
    host = sum(kept.values()) + gradients if plan.offload else 0
    backward: Parts = {}
    if plan.sharded:
        backward = _gathered(weights, plan, element, trains=True)
        gradients = stepped = 0 if plan.offload else gradients
    else:
        copied = trained if plan.offload_optimizer else weights.whole.trained_half
        always["master weights"] = 0 if offloaded else FLOAT32 * copied
        always["DDP buckets"] = weights.whole.trained_bytes if plan.gpus > 1 else 0
        gradients = weights.whole.trained_bytes
        stepped = gradients if offloaded else stepped
    # Tied to the embeddings, the head's gradient waits for theirs; of the first micro-batch, it is there to stay.
    held = head.kept_gradient if weights.tied or not accumulates else 0
    moments = {
        **_moved(weights, plan),
        "the backward pass begins": {
            **always,
            **backward,
            "gradients": gradients if accumulates else 0,
            "activations": microbatch.kept,
            "chunk of logits": head.chunk + _dequantised(weights, plan, element),
            "gradient of the head": head.gradient,
        },
        "the backward pass of the blocks": {
            **always,
            **backward,
            "gradients": (gradients if accumulates else microbatch.gradients_at_peak) + held,
            "activations": microbatch.peak + _dequantised(weights, plan, element),
        },
        "the optimizer's step": {
            **always,
            "gradients": stepped,
            "temporaries of the step": 0
            if plan.offload or offloaded
            else step_bytes(
                optimizer,
                device=plan.device,
                trained=trained // share,
                largest=weights.largest_trained // share,
                decays=decays,
            ),
        },
    }
    return _largest(moments, host)


def offloaded_bytes(sizes: Sizes, optimizer: str) -> int:
    """What an offloaded optimizer takes of the CPU's memory: float32 weights, their gradients, and its state."""
    return round((2 * FLOAT32 + state_size(optimizer).per_weight) * sizes.weights.whole.trained)


def scoring_peak(sizes: Sizes, plan: Plan) -> Peak:
    """The peak of scoring: of a forward pass with statistics, or of what comes before it."""
    weights, microbatch, head = sizes.weights, sizes.microbatch, sizes.head
    gathered = _gathered(weights, plan, sizes.element, trains=False) if plan.sharded else {}
    kept = _weights(weights, plan)
    always = gathered if plan.offload else {**kept, **gathered}
    copied = weights.whole.bytes if plan.lays_out and weights.frozen_linear and sizes.element == FLOAT32 else 0
    return _largest(
        {
            "the weights are laid out": {**always, "weights laid out": copied},
            **_moved(weights, plan),
            "the output head": {**always, "activations": microbatch.kept, "chunk of logits": head.chunk},
            "the blocks": {**always, "activations": microbatch.peak + _dequantised(weights, plan, sizes.element)},
        },
        sum(kept.values()) if plan.offload else 0,
    )


def _moved(weights: Weights, plan: Plan) -> dict[str, Parts]:
    """The moment at which all weights have moved, and their mapped file is still in memory."""
    copied = weights.whole.bytes
    return {"the weights move to huge pages": {"weights": copied, "file of the weights": copied}} if plan.moves else {}


def _weights(weights: Weights, plan: Plan) -> Parts:
    whole = weights.whole
    frozen = whole.bytes - whole.trained_bytes
    if plan.nf4:
        frozen += round(NF4_BYTES * weights.frozen_linear) - weights.frozen_linear_bytes
    if plan.sharded:
        return {"weights": (frozen + FLOAT32 * whole.trained) // plan.group}
    return {"weights": frozen + whole.trained_bytes}


def _gathered(weights: Weights, plan: Plan, element: int, *, trains: bool) -> Parts:
    """What lies outside of the blocks, and two of them; a block's gradient, and its float32 copy to be reduced."""
    outside, block = weights.outside, weights.block
    parts = {"gathered weights": element * (outside.count + GATHERED * block.count)}
    if plan.nf4:
        parts = {"gathered weights": element * outside.count + round(GATHERED * NF4_BYTES * block.count)}
    if trains:
        parts["gradients to be reduced"] = element * outside.trained + _reduced(block, element)
    return parts


def _reduced(block: WeightCount, element: int) -> int:
    return (element + (FLOAT32 if element < FLOAT32 else 0)) * block.trained


def _dequantised(weights: Weights, plan: Plan, element: int) -> int:
    return element * weights.largest_linear if plan.nf4 else 0


def _largest(moments: Mapping[str, Parts], host: int) -> Peak:
    peaks = [Peak(name, {part: size for part, size in parts.items() if size}, host) for name, parts in moments.items()]
    return max(peaks, key=lambda peak: peak.bytes)
