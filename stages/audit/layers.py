"""What `score`, `train` and `evaluate` left behind, as layers of an audit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.pipeline.audit.checks import reference_checks, training_dynamics
from scoreonce.pipeline.audit.checks.layer import Layer
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.frames import scan_frame
from scoreonce.stages.common.paths import SPLITS, RunPaths
from scoreonce.stages.data import training_runs
from scoreonce.stages.data.reference_scores import read_reference
from scoreonce.stages.data.side_by_side import beside, joined, same_ids

_SHOWN = {"model", "dtype", "layout", "store_key", "pairs"}


def reference_layer(paths: RunPaths, pairs: pl.LazyFrame) -> Layer | None:
    """The reference's columns, None before `score`. Raises `InputError` where its files are damaged."""
    if not paths.reference_manifest.is_file():
        return None
    manifest = read_reference(paths)
    add = _adding(pl.concat([_scan(paths, split) for split in SPLITS]), pairs)

    def join(pairs: pl.LazyFrame) -> pl.LazyFrame:
        return reference_checks.with_rates(add(pairs))

    scored = join(pairs)
    return Layer(
        join,
        reference_checks.reference_checks(reference_checks.ranges(scored)),
        reference_checks.REFERENCE_DISTRIBUTIONS,
        reference_checks.reference_measures(),
        {
            "reference": manifest.model_dump(mode="json", include=_SHOWN),
            "by_length_gap": reference_checks.by_length_gap(scored),
        },
    )


def _adding(columns: pl.LazyFrame, pairs: pl.LazyFrame) -> Callable[[pl.LazyFrame], pl.LazyFrame]:
    """How `columns` come to `pairs`, by pair_id, and to frames with the same rows and more columns."""
    add = beside if same_ids(pairs, columns) else joined
    return lambda pairs: add(pairs, columns)


def _scan(paths: RunPaths, split: Any) -> pl.LazyFrame:
    path = paths.reference(split)
    try:
        frame = scan_frame(path)
        have = frame.collect_schema().names()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(
            "The reference scores cannot be read.",
            found=str(error).splitlines()[0],
            where=str(path),
            fix="Run `scoreonce score` again: it rewrites the file.",
        ) from None
    lacking = [name for name in reference_checks.NEEDED if name not in have]
    if lacking:
        raise InputError(
            "The reference scores lack a column.",
            found=f"no {', '.join(lacking)}",
            where=str(path),
            fix="Run `scoreonce score` again: it rewrites the file.",
        )
    return frame.select(
        pl.col(name) if name in have else pl.lit(None, pl.Float64).alias(name) for name in reference_checks.COLUMNS
    )


def training_layer(paths: RunPaths, pairs: pl.LazyFrame) -> Layer | None:
    """What the training runs of this folder and their evaluations say; None without any.

    Raises `InputError` where a step log or an evaluation cannot be read.
    """
    logs = {label: _steps(run) for label, run in training_runs.trained(paths).items()}
    evaluated = {label: _evaluation(run) for label, run in training_runs.evaluated(paths).items()}
    if not logs and not evaluated:
        return None
    columns = [training_dynamics.by_pair(frame, label).collect(engine="streaming") for label, frame in logs.items()]
    columns += [training_dynamics.evaluation_columns(frame, label).collect() for label, frame in evaluated.items()]

    def join(pairs: pl.LazyFrame) -> pl.LazyFrame:
        for table in columns:
            pairs = pairs.join(table.lazy(), on="pair_id", how="left", maintain_order="left")
        return pairs

    dynamics, labels = join(pairs), list(logs)
    checks = [
        check
        for label in labels
        for check in training_dynamics.training_checks(label, training_dynamics.median_range(dynamics, label))
    ]
    maps = [found for label in labels if (found := training_dynamics.dynamics_map(dynamics, label)) is not None]
    once = [label for label in labels if label not in {found["label"] for found in maps}]
    return Layer(
        join,
        (*checks, *training_dynamics.evaluation_checks(list(evaluated))),
        tuple(each for label in labels for each in training_dynamics.training_distributions(label)),
        {name: value for label in labels for name, value in training_dynamics.training_measures(label).items()},
        {"training": labels, "maps": maps},
        tuple(f"training dynamics of {label}: no pair was visited twice" for label in once),
    )


def _steps(run: RunPaths) -> pl.LazyFrame:
    return pl.concat([_readable(path) for path in training_runs.step_tables(run)])


def _evaluation(run: RunPaths) -> pl.LazyFrame:
    training_runs.read_evaluation(run)
    return _readable(run.evaluation_pairs)


def _readable(path: Path) -> pl.LazyFrame:
    try:
        frame = scan_frame(path)
        frame.collect_schema()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(
            "What training left behind cannot be read.",
            found=str(error).splitlines()[0],
            where=str(path),
            fix="Run `scoreonce train` or `scoreonce evaluate` of that label again.",
        ) from None
    return frame
