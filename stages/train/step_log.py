"""What training logs: a line of metrics per step, and a row per pair and step.

When a run is resumed both are cut back to the checkpoint, so that an interrupted run leaves the same files as an
uninterrupted one.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from scoreonce.schemas.tables import StepPair, arrow_schema
from scoreonce.stages.common import files
from scoreonce.stages.common.removal import remove

Rows = dict[str, Any]  # column -> values of one step


class StepLog:
    """The metrics and step log of one run, from step `resumed` on. Nothing outside the folder `inside` is removed."""

    def __init__(self, folder: Path, resumed: int, *, inside: Path) -> None:
        self._metrics, self._parts, self._folder = folder / "metrics.jsonl", folder / "steps", folder
        self._pending: list[pa.Table] = []
        self._first_pending = resumed + 1
        self._schema = arrow_schema(StepPair)
        self._parts.mkdir(parents=True, exist_ok=True)
        kept = [metrics for metrics in self._logged_metrics() if metrics["step"] <= resumed]
        with files.atomic(self._metrics) as temporary:
            temporary.write_text("".join(map(_json_line, kept)), encoding="utf-8")
        for part in self._parts.glob("*.parquet"):
            if int(part.stem.split("-")[0]) > resumed:
                remove(part, inside=inside)

    def add(self, metrics: dict[str, float | int], rows: Rows) -> None:
        """Log one step: metrics at once, rows at the next `flush`."""
        with self._metrics.open("a", encoding="utf-8") as handle:
            handle.write(_json_line(metrics))
        self._pending.append(pa.table(rows, schema=self._schema))

    def flush(self, step: int) -> None:
        """Write the pending rows; called with every checkpoint, before it."""
        if self._pending:
            name = f"{self._first_pending:08d}-{step:08d}.parquet"
            files.write_parquet(self._parts / name, pa.concat_tables(self._pending), rows_per_group=65_536)
        self._pending, self._first_pending = [], step + 1

    def finish(self) -> None:
        """Make steps.parquet and metrics.parquet of what was logged."""
        with (
            files.atomic(self._folder / "steps.parquet") as temporary,
            pq.ParquetWriter(temporary, self._schema, **files.parquet_options(self._schema)) as writer,
        ):
            for part in sorted(self._parts.glob("*.parquet")):
                writer.write_table(self._completed(files.read_parquet(part)))
        metrics = pl.DataFrame(self._logged_metrics(), infer_schema_length=None)
        files.write_parquet(self._folder / "metrics.parquet", metrics.to_arrow())

    def _completed(self, part: pa.Table) -> pa.Table:
        """The rows of a part, null in columns that it was written without by an earlier version."""
        columns = [
            part.column(field.name).cast(field.type)
            if field.name in part.column_names
            else pa.nulls(part.num_rows, field.type)
            for field in self._schema
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _logged_metrics(self) -> list[dict[str, Any]]:
        if not self._metrics.exists():
            return []
        lines = self._metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        # A killed run can leave half a line.
        return [json.loads(line) for line in lines if line.endswith("\n")]


def _json_line(metrics: dict[str, Any]) -> str:
    # JSON has no NaN and no infinity; other readers understand null.
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in metrics.items()
    }
    return json.dumps(finite) + "\n"
