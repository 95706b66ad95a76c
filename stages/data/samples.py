"""Sampled completions as they were written."""

from __future__ import annotations

import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import Sample
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import RunPaths


def read_samples(paths: RunPaths, label: str) -> pl.DataFrame:
    """The samples of a label: rows of `schemas.tables.Sample`. Raises `InputError` where there are none."""
    path = paths.samples(label) / "samples.parquet"
    if not path.is_file():
        raise InputError(
            "There are no samples of this label.",
            found=f"no file {path}",
            where=f"label {label}",
            fix="Run `scoreonce sample` with this run file and label.",
        )
    return Sample.validate(read_frame(path))
