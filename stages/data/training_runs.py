"""What `train` and `evaluate` left behind, for stages that read it: every file is checked before it is handed out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import EvaluationManifest, TrainingLogManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.data.json_lines import read_lines

CHECKPOINT_WEIGHTS = "weights.safetensors"  # of the trained parameters, where the model is not in parts


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdigit()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def step_tables(paths: RunPaths) -> list[Path]:
    """The step log: steps.parquet, or the parts that an unfinished run has written so far, in order.

    A run of version 0.1 has no digests; its files are handed out as they are. Raises `InputError` where a file is
    damaged.
    """
    whole = paths.training / "steps.parquet"
    parts = sorted((paths.training / "steps").glob("[!.]*.parquet"))
    if not paths.training_log.exists():
        return [whole] if whole.is_file() else parts
    log = manifests.read(TrainingLogManifest, paths.training_log)
    names = [whole.name] if log.finished else sorted(log.files)
    manifests.require_files(log, paths.training, names)
    return [paths.training / name for name in names]


def metric_lines(paths: RunPaths) -> list[dict[str, Any]]:
    """The metrics of each step so far. Raises `InputError` where a line is damaged, or one that was there is not."""
    path = paths.training / "metrics.jsonl"
    if not path.is_file():
        return []
    try:
        log = manifests.read(TrainingLogManifest, paths.training_log) if paths.training_log.exists() else None
        if log is not None and log.finished:
            manifests.require_files(log, paths.training, [path.name])
        lines = list(read_lines(path, checked=log is None or not log.finished))
        if log is not None:
            _require_steps(lines, log.step)
    except ValueError as error:
        raise InputError(
            "The metrics of a training run cannot be read.",
            found=str(error),
            where=str(path),
            fix="Run `scoreonce train` with this run file and label: it goes on from a checkpoint before the damage.",
        ) from None
    return lines


def _require_steps(lines: Sequence[dict[str, Any]], logged: int) -> None:
    steps = [line["step"] for line in lines]
    if steps != list(range(1, len(steps) + 1)) or len(steps) < logged:
        raise ValueError(f"{len(steps):,} lines, of which not every one of {logged:,} steps is there")


def held_out_rows(paths: RunPaths) -> list[dict[str, Any]]:
    """The held-out figures of each evaluation so far, none without evaluate.every.

    Raises `InputError` where a line is damaged.
    """
    path = paths.held_out_log
    if not path.is_file():
        return []
    try:
        log = manifests.read(TrainingLogManifest, paths.training_log) if paths.training_log.exists() else None
        if log is not None and log.finished:
            manifests.require_files(log, paths.training, [path.name, paths.held_out.name])
        return list(read_lines(path))
    except ValueError as error:
        raise InputError(
            "The held-out figures of a training run cannot be read.",
            found=str(error),
            where=str(path),
            fix="Run `scoreonce train` with this run file and label: it goes on from a checkpoint before the damage.",
        ) from None


def read_evaluation(paths: RunPaths) -> EvaluationManifest | None:
    """The summary of an evaluation, after checking its table; None where there is none.

    Raises `InputError` where a file is damaged.
    """
    if not paths.evaluation_summary.is_file():
        return None
    manifest = manifests.read(EvaluationManifest, paths.evaluation_summary)
    manifests.require_files(manifest, paths.evaluation)
    return manifest


def trained(paths: RunPaths) -> dict[str, RunPaths]:
    """The training runs with a finished step log, by label."""
    return {label: replace(paths, label=label) for label in _labels(paths.out / "train", "steps.parquet")}


def watched(paths: RunPaths) -> dict[str, RunPaths]:
    """Those with held-out figures while training."""
    return {label: run for label, run in trained(paths).items() if run.held_out.is_file()}


def evaluated(paths: RunPaths) -> dict[str, RunPaths]:
    """The policies with evaluated pairs, by label."""
    return {label: replace(paths, label=label) for label in _labels(paths.out / "evaluate", "pairs.parquet")}


def _labels(folder: Path, name: str) -> list[str]:
    return sorted(path.parent.name for path in folder.glob(f"[!.]*/{name}")) if folder.is_dir() else []
