"""What training logs: a line of metrics per step, and a row per pair and step.

When a run is resumed both are cut back to the checkpoint, so that an interrupted run leaves the same files as an
uninterrupted one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from scoreonce.pipeline.methods import Outcome
from scoreonce.schemas.manifests import TrainingLogManifest
from scoreonce.schemas.tables import StepPair, arrow_schema
from scoreonce.stages.common import files, manifests
from scoreonce.stages.common.digests import digests_now
from scoreonce.stages.common.removal import remove
from scoreonce.stages.data.json_lines import append_line, checksums_of, read_lines, write_lines
from scoreonce.stages.held_out.settings import SECONDS

Rows = dict[str, Any]  # column -> values of one step
MANIFEST = "log.json"
HELD_OUT = "held_out.jsonl"
# What there is after the last step; figures of held-out pairs where they are asked for.
METRICS = ("metrics.jsonl", "metrics.crc32", "metrics.parquet", "steps.parquet")
WHOLE = (*METRICS, HELD_OUT, "held_out.crc32", "held_out.parquet")


class StepLog:
    """The metrics and step log of one run, from step `resumed` on. Nothing outside the folder `inside` is removed."""

    def __init__(self, folder: Path, resumed: int, *, inside: Path) -> None:
        self._metrics, self._parts, self._folder = folder / "metrics.jsonl", folder / "steps", folder
        self._pending: list[pa.Table] = []
        self._first_pending = resumed + 1
        self._schema = arrow_schema(StepPair)
        self._parts.mkdir(parents=True, exist_ok=True)
        kept = list(islice(_logged(folder), resumed))
        write_lines(self._metrics, kept)
        parts = sorted(self._parts.glob("*.parquet"))
        # Digests of the parts of the step log, by path in the folder.
        self.parts = {self._name(part): files.sha256(part) for part in parts if last_step(part) <= resumed}
        self._write_manifest(resumed)
        for part in parts:
            if last_step(part) > resumed:
                remove(part, inside=inside)

    def add(self, metrics: dict[str, float | int], rows: Rows) -> None:
        """Log one step: metrics at once, rows at the next `flush`."""
        append_line(self._metrics, _finite(metrics))
        self._pending.append(pa.table(rows, schema=self._schema))

    def flush(self, step: int) -> None:
        """Write the pending rows; called with every checkpoint, before it."""
        for path in (self._metrics, checksums_of(self._metrics)):
            with path.open("rb+") as handle:
                os.fsync(handle.fileno())  # the checkpoint must not outlive a line before it
        if self._pending:
            part = self._parts / f"{self._first_pending:08d}-{step:08d}.parquet"
            files.write_parquet(part, pa.concat_tables(self._pending), rows_per_group=65_536)
            self.parts[self._name(part)] = files.sha256(part)
            self._write_manifest(step)
        self._pending, self._first_pending = [], step + 1

    def finish(self) -> None:
        """Make steps.parquet and metrics.parquet of what was logged."""
        with (
            files.atomic(self._folder / "steps.parquet") as temporary,
            pq.ParquetWriter(temporary, self._schema, **files.parquet_options(self._schema)) as writer,
        ):
            for part in sorted(self._parts.glob("*.parquet")):
                writer.write_table(self._completed(files.read_parquet(part)))
        metrics = pl.DataFrame(list(_logged(self._folder)), infer_schema_length=None)
        files.write_parquet(self._folder / "metrics.parquet", metrics.to_arrow())
        there = [name for name in WHOLE if name in METRICS or (self._folder / name).is_file()]
        whole = {name: files.sha256(self._folder / name) for name in there}
        self._write_manifest(self._first_pending - 1, whole)

    def _write_manifest(self, step: int, whole: dict[str, str] | None = None) -> None:
        log = TrainingLogManifest(step=step, finished=whole is not None, files=self.parts | (whole or {}))
        manifests.write(self._folder / MANIFEST, log)

    def _name(self, part: Path) -> str:
        return part.relative_to(self._folder).as_posix()

    def _completed(self, part: pa.Table) -> pa.Table:
        """The rows of a part, null in columns that it was written without by an earlier version."""
        columns = [
            part.column(field.name).cast(field.type)
            if field.name in part.column_names
            else pa.nulls(part.num_rows, field.type)
            for field in self._schema
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)


def last_step(part: Path) -> int:
    """The last step in a part of the step log."""
    return int(part.stem.split("-")[1])


def log_damage(folder: Path, step: int, parts: Mapping[str, str]) -> str | None:
    """What is wrong with what was logged up to a step, or None. `parts`: the digests that a checkpoint has of it."""
    try:
        logged = [(metrics["step"], SECONDS in metrics) for metrics in islice(_logged(folder), step)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"metrics.jsonl: {error}"
    if [number for number, _ in logged] != list(range(1, step + 1)):
        return f"metrics.jsonl has not every step up to {step:,}"
    if damage := _held_out_damage(folder, [number for number, evaluated in logged if evaluated]):
        return damage
    there = {name: folder / name for name in parts if (folder / name).is_file()}
    found = dict(zip(there, digests_now(list(there.values())), strict=True))
    changed = next((name for name, digest in parts.items() if found.get(name) != digest), None)
    return changed and f"{changed} is not what was written"


def _held_out_damage(folder: Path, steps: Sequence[int]) -> str | None:
    """What is wrong with the held-out figures of these `steps`, or None."""
    if not steps:
        return None
    try:
        rows = takewhile(lambda row: row["step"] <= steps[-1], read_lines(folder / HELD_OUT))
        there = [row["step"] for row in rows if row["step"] > 0]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{HELD_OUT}: {error}"
    return None if there == list(steps) else f"{HELD_OUT} has not every evaluation up to step {steps[-1]:,}"


def _logged(folder: Path) -> Iterator[dict[str, Any]]:
    metrics = folder / "metrics.jsonl"
    if not metrics.exists():
        return iter(())
    return read_lines(metrics, checked=not _whole_log(folder))


def _whole_log(folder: Path) -> bool:
    """Whether the metrics are those of a finished run, by the digest of the whole file."""
    log = manifests.readable(TrainingLogManifest, folder / MANIFEST)
    return log is not None and log.finished and not manifests.file_changes(log, folder, ["metrics.jsonl"])


def _finite(metrics: dict[str, float | int]) -> dict[str, float | int | None]:
    # JSON has no NaN and no infinity; other readers understand null.
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in metrics.items()
    }


def log_rows(outcome: Outcome, step: int, epoch: int, pair_ids: list[str]) -> Rows:
    """The rows of the step log that a step gives."""

    def values(column: Tensor) -> list[float | None]:
        return [None if math.isnan(value) else value for value in column.detach().double().cpu().tolist()]

    return {
        "step": [step] * len(pair_ids),
        "epoch": [epoch] * len(pair_ids),
        "pair_id": pair_ids,
        "margin": values(outcome.margin),
        "linked_margin": values(outcome.linked_margin),
        "beta": values(outcome.beta),
        "target_margin": values(outcome.target_margin),
        "weight": values(outcome.weight),
        "loss": values(outcome.losses),
    }
