"""What training logs: a line of metrics per step, and a row per pair and step.

When a run is resumed both are cut back to the checkpoint, so that an interrupted run leaves the same files as an
uninterrupted one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from scoreonce.schemas.manifests import TrainingLogManifest
from scoreonce.schemas.tables import StepPair, arrow_schema
from scoreonce.stages.common import files, manifests
from scoreonce.stages.common.digests import digests_now
from scoreonce.stages.common.removal import remove
from scoreonce.stages.data.json_lines import append_line, checksums_of, read_lines, write_lines

Rows = dict[str, Any]  # column -> values of one step
MANIFEST = "log.json"
WHOLE = ("metrics.jsonl", "metrics.crc32", "metrics.parquet", "steps.parquet")  # what there is after the last step


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
        whole = {name: files.sha256(self._folder / name) for name in WHOLE}
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
        steps = [metrics["step"] for metrics in islice(_logged(folder), step)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"metrics.jsonl: {error}"
    if steps != list(range(1, step + 1)):
        return f"metrics.jsonl has not every step up to {step:,}"
    there = {name: folder / name for name in parts if (folder / name).is_file()}
    found = dict(zip(there, digests_now(list(there.values())), strict=True))
    changed = next((name for name, digest in parts.items() if found.get(name) != digest), None)
    return changed and f"{changed} is not what was written"


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
