"""The audit as a page for people: reads what `audit` wrote and the texts that it names, writes index.html beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.pipeline.audit_page import AuditPage, render
from scoreonce.pipeline.audit_page_pairs import Texts
from scoreonce.pipeline.errors import InputError
from scoreonce.stages.files import atomic, read_json
from scoreonce.stages.layout import SPLITS, Layout, Split

_FIX = "Run `scoreonce audit` again, which writes it anew."


def write(layout: Layout) -> Path:
    """Write `<out>/audit/index.html` and return its path.

    Raises `InputError` where audit.json or a file it goes with is absent or damaged.
    """
    audit = _audit(layout.audit_summary)
    named = [*(example for finding in audit["findings"] for example in finding["examples"]), *audit["worst"]]
    doubles = {str(entry["other_pair_id"]) for entry in named if entry.get("other_pair_id")}
    page = AuditPage(
        audit, texts=dict(_named(layout, named)), others=dict(_doubles(layout, sorted(doubles))),
        affected=_affected(layout.audit_pairs, audit["findings"]), title=f"{layout.out.name}: scoreonce audit",
        made=f"{datetime.now().astimezone():%Y-%m-%d %H:%M}")
    path = layout.audit / "index.html"
    with atomic(path) as temporary:
        temporary.write_text(render(page), encoding="utf-8")
    return path


def _audit(path: Path) -> dict[str, Any]:
    with _readable(path):
        audit: dict[str, Any] = read_json(path)
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


def _texts(layout: Layout, split: Split, where: pl.Expr) -> Iterator[Texts]:
    path = layout.pairs(split)
    with _readable(path):
        table = pl.scan_parquet(path).filter(where).select("pair_id", "row", "prompt", "chosen", "rejected")
        found = table.collect(engine="streaming")
    yield from (Texts(split=split, **row) for row in found.iter_rows(named=True))


def _affected(path: Path, findings: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many pairs have any finding of each severity; empty where the findings have no columns."""
    columns: dict[str, list[str]] = {}
    for finding in findings:
        if finding["rows"]:
            columns.setdefault(finding["severity"], []).append(finding["column"])
    counts = [pl.any_horizontal(pl.col(names)).sum().alias(severity) for severity, names in columns.items()]
    with _readable(path):
        found = pl.scan_parquet(path).select(counts).collect(engine="streaming") if counts else pl.DataFrame()
    return found.row(0, named=True) if counts else {}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise InputError("A file of the audit cannot be read.", found=str(error).splitlines()[0], where=str(path),
                         fix=_FIX) from None
