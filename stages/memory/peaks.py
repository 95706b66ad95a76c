"""The peaks of a run's stages, as one run file and one way of sharing the work make them, and whether they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from scoreonce.pipeline import methods
from scoreonce.pipeline.attention.cpu_features import onednn_is_faster
from scoreonce.pipeline.attention.language_model import attention_of
from scoreonce.pipeline.batches.prompt_rows import RowLayout, sequence_multiple
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.memory.peaks import Peak, Plan, Shard, scoring_peak, training_peak
from scoreonce.pipeline.memory.sizes import Sizes, sizes_of
from scoreonce.pipeline.training.policy_columns import PolicyColumns
from scoreonce.schemas.errors import InputError, first_line
from scoreonce.stages.common.paths import SPLITS, RunPaths, Split
from scoreonce.stages.config import Compute, Reference, Run
from scoreonce.stages.memory import huge_pages, meta_model
from scoreonce.stages.memory.workload import Workload, assumed, of_pairs
from scoreonce.stages.models import lineage

Device = Literal["cpu", "cuda"]
GIB = 1 << 30
# Bytes: CUDA and its libraries take one of the three, the others are for gaps between blocks of memory.
NOT_COUNTED = 3 * GIB
MAX_LENGTH = 1_024  # tokens


@dataclass(frozen=True)
class Sharing:
    """How the work is shared."""

    gpus: int = 1
    shard: Shard = "none"
    per_machine: int | None = None  # GPUs; all of them where it is not given
    offload: bool = False

    def plan(self, device: Device, *, nf4: bool, offload_optimizer: bool = False) -> Plan:
        """The same for GPUs, or processes on a CPU."""
        offload = self.offload and self.shard != "none"
        copies = device == "cpu" and self.shard == "none" and not nf4
        lays_out, moves = copies and onednn_is_faster(), copies and huge_pages.heap_is_possible()
        return Plan(device, self.gpus, self.shard, nf4, self.per_machine, offload, offload_optimizer, lays_out, moves)


@dataclass(frozen=True)
class Counted:
    """A stage of a run: its sizes, what it goes through, how rows are laid out."""

    model: str  # class
    sizes: Sizes
    workload: Workload
    layout: RowLayout


@dataclass(frozen=True)
class Asked:
    """What a run's method asks of the forward pass."""

    sides: tuple[str, ...]  # completions
    distributions: bool

    @classmethod
    def of(cls, run: Run) -> Asked:
        """By the method of the run file; both completions where it comes from a file, whose code is not run here."""
        settings = run.train
        if settings.method_file:
            return cls(("chosen", "rejected"), distributions=False)
        method = methods.resolve(settings.method, settings.hyperparameters, **settings.pieces)
        asked = PolicyColumns.of(method.reads)
        return cls(asked.completions, asked.needs("distributions", "hidden states"))


def device_of(compute: Compute) -> Device:
    """Where the run will be: on GPUs, unless the run file says otherwise."""
    return "cpu" if compute.device == "cpu" else "cuda"


def fits(peak: Peak, memory: int) -> bool:
    """Whether a GPU of so many bytes has the peak, and what is not counted in it."""
    return peak.bytes + NOT_COUNTED <= memory


def counted_training(run: Run, gpus: int, places: npt.NDArray[np.int64] | None = None) -> Counted:
    """The sizes of a training step on one of the GPUs, with the training pairs at some `places`, None for all.

    Raises `InputError` where they cannot be worked out.
    """
    asked, budget = Asked.of(run), run.compute.budget(device_of(run.compute))
    each = max(1, run.train.batch_pairs // gpus)
    found = of_pairs(RunPaths.of(run), ("train",), asked.sides, budget, each, step_tokens=True, places=places)
    workload = found or assumed(budget, run.data.max_length)
    return _counted(run.compute, meta_model.policy(run), workload, trains=True, distributions=asked.distributions)


def counted_scoring(
    reference: Reference,
    compute: Compute,
    paths: RunPaths,
    *,
    shard_completions: int,
    splits: Sequence[Split] = SPLITS,
    max_length: int = MAX_LENGTH,
) -> Counted:
    """The sizes of a forward pass of `score` or `evaluate`; rows are of `max_length` where no pairs are prepared.

    Raises `InputError` where they cannot be worked out.
    """
    budget = compute.budget(device_of(compute))
    # A micro-batch is made of one shard's rows, two completions to a row.
    most = max(1, shard_completions // 2)
    found = of_pairs(paths, splits, ("chosen", "rejected"), budget, most, step_tokens=False)
    return _counted(compute, meta_model.reference(reference), found or assumed(budget, max_length), trains=False)


def training(run: Run, counted: Counted, sharing: Sharing) -> Peak:
    """The peak of training."""
    return training_peak(
        counted.sizes,
        sharing.plan(
            device_of(run.compute),
            nf4=run.reference.quantization is not None,
            offload_optimizer=run.compute.offload_optimizer,
        ),
        optimizer=run.train.optimizer,
        decays=run.train.weight_decay > 0,
        extra={"loaded reference": _loaded_reference(run)},
    )


def scoring(reference: Reference, compute: Compute, counted: Counted, sharing: Sharing) -> Peak:
    """The peak of scoring."""
    return scoring_peak(counted.sizes, sharing.plan(device_of(compute), nf4=reference.quantization is not None))


def _loaded_reference(run: Run) -> int:
    """Bytes of the reference where training keeps it loaded; a new LoRA switched off is the reference."""
    if run.train.full_vocab != "live" or not Asked.of(run).distributions:
        return 0
    if run.train.lora_rank and not run.reference.adapter and lineage.starts_from_reference(run):
        return 0
    return sum(parameter.nbytes for parameter in meta_model.reference(run.reference).parameters())


def _counted(
    compute: Compute, model: nn.Module, workload: Workload, *, trains: bool, distributions: bool = False
) -> Counted:
    device, lm = device_of(compute), architecture.causal_lm(model)
    layout = _layout(compute, architecture.windows(lm), attention_of(lm), device, trains=trains)
    try:
        sizes = sizes_of(
            model,
            workload.rows,
            layout,
            device=device,
            trains=trains,
            accumulates=workload.accumulates,
            distributions=distributions,
            multiple=sequence_multiple(compute.budget(device)),
        )
    except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
        raise InputError(
            f"The memory of {type(lm).__name__} cannot be worked out without running it.",
            found=first_line(error),
            where="a micro-batch on the meta device",
            fix="Measure it with weights: `scoreonce train --dry-run` and `scoreonce score --dry-run`.",
        ) from None
    return Counted(type(lm).__name__, sizes, workload, layout)


def _layout(
    compute: Compute, windows: Mapping[str, int | None] | None, attention: str | None, device: Device, *, trains: bool
) -> RowLayout:
    """The layout that the probe finds exact for most models; only running it shows."""
    if compute.attention != "auto":
        return compute.attention
    if windows is None:  # a kind of layer that takes no mask
        return "padded" if trains else "continued"
    if attention == "eager":
        return "shared"
    return "flex" if device == "cuda" else "packed"
