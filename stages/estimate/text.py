"""An estimate as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from scoreonce.pipeline.pages.numbers import NOTHING, size
from scoreonce.stages.estimate.changes import first_that_fits
from scoreonce.stages.estimate.result import GIB, Change, Estimate, StageEstimate

NAME, NUMBER = 34, 14  # widths of the columns


def lines(found: Estimate) -> Iterator[str]:
    """What is estimated for whom, the table of parts, what to change, time, notes."""
    trained = "all trained" if found.trained == found.parameters else f"{found.trained:,} of them trained"
    yield f"model        {found.model}, {found.parameters:,} parameters, {trained}, {found.dtype}"
    yield f"gpus         {_gpus(found)}"
    padding = "" if found.pairs is None else f" of {found.pairs:,} pairs"
    yield (
        f"micro-batch  {found.microbatch:,} positions, the largest{padding}; {found.layout} rows, "
        f"compute.tokens_per_microbatch = {found.tokens_per_microbatch:,}"
    )
    yield ""
    yield _row("per GPU" if found.device == "cuda" else "per process", "train", "score")
    for part in dict.fromkeys([*found.train.parts, *found.score.parts]):
        yield _row(part, *(size(stage.parts[part]) if part in stage.parts else NOTHING for stage in _stages(found)))
    yield _row("in all", *(size(stage.bytes) for stage in _stages(found)))
    if found.memory is not None:
        yield _row(f"fits {found.memory:g} GiB", *("yes" if stage.fits else "no" for stage in _stages(found)))
    yield _row("time per epoch" if found.pairs else "time per million tokens", *map(_time, _stages(found)))
    yield from (_further(name, stage, found) for name, stage in found.further.items())
    yield ""
    yield f"The most is taken: in training, when {_when(found.train)}; in scoring, in {found.score.moment}."
    yield from _speeds(found)
    yield from _changes(found)
    yield from (f"note: {note}" for note in found.notes)


def _further(name: str, stage: StageEstimate, found: Estimate) -> str:
    """A further model is scored after the reference, so its memory is not in addition and its time is."""
    fits = "" if stage.fits is None else ", fits" if stage.fits else ", too much"
    time = "" if stage.seconds is None else f", {_time(stage)} more per {'epoch' if found.pairs else 'million tokens'}"
    return f"to score reference.other.{name}: {size(stage.bytes)}{fits}{time}"


def _stages(found: Estimate) -> tuple[StageEstimate, StageEstimate]:
    return found.train, found.score


def _row(name: str, *cells: str) -> str:
    return f"{name:<{NAME}}{''.join(f'{cell:>{NUMBER}}' for cell in cells)}"


def _gpus(found: Estimate) -> str:
    if found.device == "cpu":
        return f"none: {found.gpus:,} process{'es' if found.gpus > 1 else ''} on a CPU (compute.device)"
    shared = {
        "full": "weights, gradients and optimizer shared out",
        "hybrid": f"weights, gradients and optimizer shared out over the {found.per_machine:,} of a machine",
        "none": "whole weights on each (DDP)",
    }
    of = "" if found.memory is None else f" of {found.memory:g} GiB"
    return f"{found.gpus:,}{of}" + (f", {shared[found.shard]}" if found.gpus > 1 else "")


def _when(stage: StageEstimate) -> str:
    return stage.moment if stage.moment.endswith("begins") else f"in {stage.moment}"


def _time(stage: StageEstimate) -> str:
    if stage.seconds is None:
        return NOTHING
    for unit, seconds in (("h", 3600), ("min", 60)):
        if stage.seconds >= seconds:
            return f"{stage.seconds / seconds:,.1f} {unit}"
    return f"{stage.seconds:,.1f} s"


def _speeds(found: Estimate) -> Iterator[str]:
    sources = dict.fromkeys(stage.speed for stage in _stages(found) if stage.speed)
    yield from (f"Time at {source}." for source in sources)
    if not found.train.speed:
        yield "For the time, give a GPU's peak and the share reached, e.g. --tflops 989 --mfu 0.35 (H100, bfloat16)."


def _changes(found: Estimate) -> Iterator[str]:
    if found.memory is None:
        yield "Whether it fits is said with --memory, in GiB of a GPU."
        return
    over = found.train.bytes - found.memory * GIB
    if not found.train.fits:
        yield ""
        yield f"Training takes {size(int(over))} too much. With"
        yield from (_change(change) for change in found.changes)
        first = first_that_fits(found.changes)
        yield (
            f"Change {'first' if len(first.settings) == 1 else 'together'}: {', '.join(first.settings)}."
            if first
            else "None of these is enough: take more GPUs with --shard full, larger ones, or a smaller model."
        )
    if not all(stage.fits for stage in (found.score, *found.further.values())):
        yield "Scoring does not fit: lower compute.tokens_per_microbatch, or take a reference in bfloat16."


def _change(change: Change) -> str:
    return f"  {' and '.join(change.settings)}: {size(change.bytes)}, {'fits' if change.fits else 'too much'}"
