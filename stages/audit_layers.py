"""What `score`, `train` and `evaluate` left behind, as layers of an audit."""

from __future__ import annotations

from typing import Any

import polars as pl

from scoreonce.pipeline.audit import reference
from scoreonce.pipeline.audit.layer import Layer
from scoreonce.pipeline.errors import InputError
from scoreonce.stages.files import read_json
from scoreonce.stages.layout import SPLITS, Layout

_SHOWN = ("model", "dtype", "layout", "store_key", "pairs")


def reference_layer(layout: Layout, pairs: pl.LazyFrame) -> Layer | None:
    """The reference's columns, None before `score`. Raises `InputError` where its files cannot be read."""
    if not layout.reference_manifest.is_file():
        return None
    manifest = _manifest(layout)
    columns = pl.concat([_scan(layout, split) for split in SPLITS]).unique("pair_id")

    def join(pairs: pl.LazyFrame) -> pl.LazyFrame:
        return reference.with_rates(pairs.join(columns, on="pair_id", how="left", maintain_order="left"))

    scored = join(pairs)
    names = scored.collect_schema().names()
    measures = {name: value for name, value in reference.reference_measures().items()
                if set(value.meta.root_names()) <= set(names)}  # fmt: skip
    return Layer(
        join, reference.reference_checks(reference.ranges(scored)), reference.REFERENCE_DISTRIBUTIONS, measures,
        {"reference": {key: manifest[key] for key in _SHOWN if key in manifest},
         "by_length_gap": reference.by_length_gap(scored)},
    )  # fmt: skip


def _manifest(layout: Layout) -> dict[str, Any]:
    try:
        manifest = read_json(layout.reference_manifest)
    except (OSError, ValueError) as error:
        raise InputError("The manifest of the reference scores cannot be read.", found=str(error),
                         where=str(layout.reference_manifest), fix="Run `scoreonce score` again.") from None  # fmt: skip
    return manifest if isinstance(manifest, dict) else {}


def _scan(layout: Layout, split: Any) -> pl.LazyFrame:
    path = layout.reference(split)
    try:
        frame = pl.scan_parquet(path)
        have = frame.collect_schema().names()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError("The reference scores cannot be read.", found=str(error).splitlines()[0], where=str(path),
                         fix="Run `scoreonce score` again: it writes the file anew.") from None  # fmt: skip
    return frame.select(name for name in reference.COLUMNS if name in have)
