"""The held-out pairs of trainings on real text, in one Parquet for all: what is in it is not trained again.

A training is named by its keys. Those of another model, or of other pairs, stay beside these. Remove the file to train
from scratch.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # what the benchmarks share

import machine
import polars as pl

from scoreonce.stages.common.files import atomic

# What accuracies, their intervals and cross-entropies read.
READ = (
    "pair_id",
    "prompt_id",
    "margin",
    *(f"{side}_{what}" for side in ("chosen", "rejected") for what in ("len", "logratios")),
    *(f"{of}_{side}_logps" for of in ("policy", "ref") for side in ("chosen", "rejected")),
)


@dataclass(frozen=True)
class Kept:
    """The trainings of a model on pairs, in a file."""

    path: Path
    model: str
    data: str

    def table(self) -> pl.DataFrame | None:
        """All held-out pairs of them; None where there are none."""
        if not self.path.exists():
            return None
        own = self._every().filter(model=self.model, data=self.data)
        return None if own.is_empty() else own

    def has(self, **keys: Any) -> bool:
        """Whether a training with these keys is kept."""
        table = self.table()
        return table is not None and not table.filter(**keys).is_empty()

    def add(self, pairs: pl.DataFrame, keys: Mapping[str, Any], columns: Sequence[str] = ()) -> None:
        """Keep the held-out pairs of a training, with their `prompt_id`, its keys and these columns of them too."""
        of = {**keys, "model": self.model, "data": self.data, "machine": machine.described()["machine"]}
        own = pairs.select(*READ, *columns).with_columns(pl.col(pl.Float64).cast(pl.Float32))
        own = own.with_columns(**{key: pl.lit(value) for key, value in of.items()})
        with atomic(self.path) as path:
            (pl.concat([self._every(), own]) if self.path.exists() else own).write_parquet(path)

    def _every(self) -> pl.DataFrame:
        return pl.read_parquet(self.path)


def digest(*parts: Sequence[Mapping[str, Any]]) -> str:
    """Which pairs these are, in 8 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


def latest(path: Path, model: str) -> pl.DataFrame | None:
    """The trainings of a model on the pairs that were last trained on; None where there are none."""
    own = pl.read_parquet(path).filter(model=model) if path.exists() else pl.DataFrame()
    return None if own.is_empty() else own.filter(data=own["data"][-1])
