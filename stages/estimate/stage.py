"""What a run will take of each GPU, before there is one: no weights and no GPU are needed.

    scoreonce estimate configs/x.toml --gpus 8 --memory 80
    scoreonce estimate configs/x.toml --gpus 8 --memory 80 --shard full --tflops 989 --mfu 0.35

Where weights and a device are there, `score --dry-run` and `train --dry-run` measure instead.

Left out: what CUDA and its libraries take (1 GiB or so), fragmentation, and compiled blocks (compute.compile), which
keep fewer activations.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt

from scoreonce.pipeline.memory.optimizer_memory import state_size
from scoreonce.pipeline.memory.peaks import Peak, Shard, offloaded_bytes
from scoreonce.pipeline.pages.numbers import size
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Reference, Run
from scoreonce.stages.estimate import speed
from scoreonce.stages.estimate.changes import changes, why_whole
from scoreonce.stages.estimate.result import GIB, Estimate, StageEstimate
from scoreonce.stages.estimate.speed import Speed
from scoreonce.stages.memory import peaks
from scoreonce.stages.memory.peaks import Counted, Sharing
from scoreonce.stages.models import lineage, policy
from scoreonce.stages.outputs.at_address import at_address
from scoreonce.stages.train import pair_filter

USUAL_MACHINE = 8  # GPUs


@at_address("pairs/*", "reference/*", "audit/audit.json", "audit/pairs.parquet", "train/{label}/metrics.parquet")
def estimate(
    run: Run,
    *,
    gpus: int = 1,
    memory: float | None = None,
    shard: Shard | None = None,
    per_machine: int | None = None,
    tflops: float | None = None,
    mfu: float | None = None,
) -> Estimate:
    """Bytes of each of `gpus` GPUs with `memory` GiB, for `train` and `score`, and the time of an epoch.

    From the model's config.json alone; with the lengths of the pairs where they are prepared. `shard` is "none" (whole
    weights on each GPU), "full" (shared out over all, FSDP2) or "hybrid" (over the `per_machine` GPUs of a machine, 8
    by default), by default that of the run file. `tflops`: peak of a GPU in 10^12 operations per second, `mfu`: the
    share of it that is reached; without them the rate of an earlier training run under this label counts, if there is
    one.

    Raises `InputError` where the model cannot be built from its configuration.
    """
    policy.require_lora_settings(run)
    policy.require_activations_to_offload(run, peaks.device_of(run.compute))
    _require_counts(gpus, per_machine, memory, tflops, mfu)
    per_machine = per_machine or min(gpus, USUAL_MACHINE)

    places, selection = _places(run)
    counted = cache(lambda frozen: peaks.counted_training(Run.model_validate_json(frozen), gpus, places))

    def training(run: Run, sharing: Sharing) -> Peak:
        return peaks.training(run, counted(run.model_dump_json(exclude_unset=True)), sharing)

    trained = counted(run.model_dump_json(exclude_unset=True))
    staying = counted(run.replace({"compute.offload_activations": False}).model_dump_json(exclude_unset=True))
    limit = None if memory is None else int(memory * GIB)
    whole_weights = Sharing(gpus, "none", per_machine, run.compute.offload)
    asked = shard or run.compute.shard
    sharing = whole_weights
    if asked != "auto" or run.compute.offload:
        sharing = replace(sharing, shard="full" if asked == "auto" else asked)
    elif gpus > 1 and limit is not None and peaks.device_of(run.compute) == "cuda":
        stays = peaks.fits(training(run, whole_weights), limit) or why_whole(run) is not None
        sharing = replace(sharing, shard="none" if stays else "full")
    _require_equal_machines(sharing)
    peak = training(run, sharing)
    given = speed.given(tflops, mfu, gpus)

    def scoring(reference: Reference) -> StageEstimate:
        scored = peaks.counted_scoring(
            reference,
            run.compute,
            RunPaths.of(run),
            shard_completions=run.score.shard_completions,
            max_length=run.data.max_length,
        )
        return _stage(peaks.scoring(reference, run.compute, scored, sharing), limit, scored, given, passes=1)

    whole = not (run.train.lora_rank or run.train.lora_continue)
    weights = trained.sizes.weights.whole
    short = limit is not None and peak.bytes > limit
    return Estimate(
        trained.model,
        weights.count,
        weights.trained,
        lineage.dtype_of(run),
        peaks.device_of(run.compute),
        gpus,
        sharing.shard,
        per_machine,
        memory,
        run.compute.budget(peaks.device_of(run.compute)),
        trained.sizes.microbatch.positions,
        trained.layout,
        trained.workload.pairs,
        _stage(peak, limit, trained, given or speed.measured(run), passes=3 if whole else 2),
        scoring(run.reference),
        {name: scoring(reference) for name, reference in run.reference.other.items()},
        changes(run, sharing, limit, lambda run, sharing: training(run, sharing).bytes) if short and limit else (),
        (*selection, *_notes(run, sharing, trained, staying, peak, asked, limit)),
    )


def _places(run: Run) -> tuple[npt.NDArray[np.int64] | None, list[str]]:
    """The rows of the training pairs that training will read, None for all, and what to say of them."""
    paths, settings = RunPaths.of(run), run.train
    asked = {
        "train.where": settings.where is not None,
        "train.drop": bool(settings.drop),
        "train.share": settings.share < 1,
    }
    names = ", ".join(name for name, given in asked.items() if given)
    if not names or not paths.pairs("train").exists():
        return None, []
    try:
        places = pair_filter.selected_by(run, peaks.Asked.of(run).sides)
    except InputError as error:  # scores or findings that are not there yet, say
        return None, [f"All training pairs are counted, whatever {names} says: {error.what} {error.found}"]
    taken = 0 if places is None else len(places)
    return places, [f"Training is counted with the {taken:,} pairs that {names} leaves; `score` scores all."]


def _stage(peak: Peak, limit: int | None, counted: Counted, rate: Speed | None, *, passes: int) -> StageEstimate:
    """`passes`: how many times the operations of a forward pass; a backward pass to all weights is two, else one."""
    work = counted.workload
    operations = passes * speed.operations(counted)
    return StageEstimate(
        peak.moment,
        peak.parts,
        peak.bytes,
        None if limit is None else peak.bytes <= limit,
        work.positions,
        operations,
        None if rate is None else rate.seconds(operations, work.positions),
        None if rate is None else rate.source,
    )


def _notes(
    run: Run, sharing: Sharing, counted: Counted, staying: Counted, peak: Peak, asked: str, limit: int | None
) -> list[str]:
    """`staying`: counted without offloaded activations."""
    notes = []
    if counted.workload.pairs is None:
        notes.append("The pairs are not prepared: micro-batches are taken to be full, nearly all of it completions.")
    if asked == "auto" and sharing.gpus > 1 and peaks.device_of(run.compute) == "cuda":
        notes.append(
            'compute.shard = "auto" is "none" or "full" by the memory of a GPU: give --memory.'
            if limit is None
            else f'compute.shard = "auto" is "{sharing.shard}" on such GPUs.'
        )
        if limit is not None and not peaks.fits(peak, limit) and (why := why_whole(run)):
            notes.append(f"This model is not put in parts. {why}")
    if sharing.shard != "none" and (why := why_whole(run)):
        notes.append(f"`train` refuses to put this model in parts. {why}")
    if peak.host:
        notes.append(f"Weights, gradients and optimizer state take {size(peak.host)} of the host, for each GPU.")
    if run.compute.offload and (sharing.shard == "none" or peaks.device_of(run.compute) == "cpu"):
        notes.append("`train` refuses compute.offload = true without a GPU, and without compute.shard.")
    if run.compute.offload_optimizer:
        taken = size(offloaded_bytes(counted.sizes, run.train.optimizer))
        notes.append(f"The offloaded optimizer takes {taken} of the CPU's memory for each process.")
    elif run.train.optimizer.startswith("paged_"):
        notes.append(f"The state of {run.train.optimizer} moves to the CPU's memory where the GPU's runs out.")
    if run.compute.offload_activations:
        taken = size(staying.sizes.microbatch.kept - counted.sizes.microbatch.kept)
        notes.append(f"Offloaded activations take {taken} of the CPU's memory for each process.")
    if not state_size(run.train.optimizer).known:
        notes.append(f"The state of {run.train.optimizer} is not known; it is taken to be AdamW's.")
    if run.compute.compile:
        notes.append("Compiled blocks keep fewer activations than is said here.")
    return notes


def _require_equal_machines(sharing: Sharing) -> None:
    gpus, per_machine = sharing.gpus, sharing.per_machine or sharing.gpus
    if sharing.shard == "hybrid" and gpus % per_machine:
        raise InputError(
            "Machines that are replicas of each other need the same number of GPUs.",
            found=f"{gpus:,} GPUs in all, {per_machine:,} on each machine",
            where="--gpus and --per-machine",
            fix="Give a number of GPUs that the number on a machine divides.",
        )


def _require_counts(
    gpus: int, per_machine: int | None, memory: float | None, tflops: float | None, mfu: float | None
) -> None:
    for flag, value, most in (
        ("--gpus", gpus, None),
        ("--per-machine", per_machine, None),
        ("--memory", memory, None),
        ("--tflops", tflops, None),
        ("--mfu", mfu, 1),
    ):
        if value is not None and not (math.isfinite(value) and value > 0 and (most is None or value <= most)):
            raise InputError(
                f"{flag} is out of range.",
                found=f"{flag} {value}",
                where="the options",
                fix="Give a share above 0 and up to 1, such as 0.35." if most else "Give a number above 0.",
            )
    if mfu is not None and tflops is None:
        raise InputError(
            "A share of the peak says nothing without the peak.",
            found=f"--mfu {mfu}, and no --tflops",
            where="the options",
            fix="Give the GPU's peak too, e.g. --tflops 989 for an H100 in bfloat16.",
        )
