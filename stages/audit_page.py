"""The audit as a page for people: reads what `audit` wrote and the texts that it names, writes index.html beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.pipeline.audit_page import AuditPage, render
from scoreonce.pipeline.audit_page_pairs import Texts
from scoreonce.pipeline.errors import InputError
from scoreonce.stages.files import atomic, read_json
from scoreonce.stages.layout import SPLITS, Layout

_FIX = "Run `scoreonce audit` again, which writes it anew."


def write(layout: Layout) -> Path:
    """Write `<out>/audit/index.html` and return its path.

    Raises `InputError` where audit.json or a file it goes with is absent or damaged.
    """
    folder = layout.out / "audit"
    audit = _audit(folder / "audit.json")
    named = [*(example for finding in audit["findings"] for example in finding["examples"]), *audit["worst"]]
    doubles = {str(entry["other_pair_id"]) for entry in named if entry.get("other_pair_id")}
    page = AuditPage(
        audit, texts=dict(_named(layout, named)), others=dict(_doubles(layout, sorted(doubles))),
        affected=_affected(folder / "pairs.parquet", audit["findings"]), title=f"{layout.out.name}: scoreonce audit",
        made=f"{datetime.now().astimezone():%Y-%m-%d %H:%M}")
    with atomic(folder / "index.html") as temporary:
        temporary.write_text(render(page), encoding="utf-8")
    return folder / "index.html"


def _audit(path: Path) -> dict[str, Any]:
    try:
        audit: dict[str, Any] = read_json(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if audit.get("format") != 1:
        raise InputError("The audit is of another kind.", found=f"format {audit.get('format')!r}", where=str(path),
                         fix=_FIX)
    return audit


def _named(layout: Layout, entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, int], Texts]]:
    for split in SPLITS:
        rows = sorted({int(entry["row"]) for entry in entries if entry["split"] == split})
        if rows:
            yield from (((split, texts.row), texts) for texts in _texts(layout, split, pl.col("row").is_in(rows)))


def _doubles(layout: Layout, pair_ids: Sequence[str]) -> Iterator[tuple[str, Texts]]:
    for split in SPLITS:
        if pair_ids:
            where = pl.col("pair_id").is_in(pair_ids)
            yield from ((texts.pair_id, texts) for texts in _texts(layout, split, where))


def _texts(layout: Layout, split: str, where: pl.Expr) -> Iterator[Texts]:
    path = layout.pairs("train" if split == "train" else "test")
    columns = ("pair_id", "row", "prompt", "chosen", "rejected")
    for row in _collect(path, pl.scan_parquet(path).filter(where).select(columns)).iter_rows(named=True):
        yield Texts(split=split, **row)


def _affected(path: Path, findings: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many pairs have any finding of each severity; those without a column are passed over."""
    if not path.is_file():
        return {}
    table = pl.scan_parquet(path)
    there = set(table.collect_schema().names())
    columns: dict[str, list[str]] = {}
    for finding in findings:
        if finding["rows"] and finding["column"] in there:
            columns.setdefault(finding["severity"], []).append(finding["column"])
    counts = [pl.any_horizontal(pl.col(names)).sum().alias(severity) for severity, names in columns.items()]
    return _collect(path, table.select(counts)).row(0, named=True) if counts else {}


def _collect(path: Path, table: pl.LazyFrame) -> pl.DataFrame:
    try:
        return table.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError("A file of the audit cannot be read.", found=str(error).splitlines()[0], where=str(path), fix=_FIX)
