"""The audit as a page for people: reads what `audit` wrote and the texts that it names, writes index.html beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.pipeline.pages.audit.page import AuditPage, render
from scoreonce.pipeline.pages.audit.pairs import Texts
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.frames import scan_frame
from scoreonce.stages.common.paths import SPLITS, RunPaths
from scoreonce.stages.data.pair_tables import read_audit
from scoreonce.stages.outputs import pages

_FIX = "Run `scoreonce audit` again: it rewrites the file."


def write_page(paths: RunPaths) -> Path:
    """Write `<out>/audit/index.html` and return its path.

    Raises `InputError` where audit.json or a file it goes with is absent, damaged, or of another version.
    """
    _, audit = read_audit(paths)
    page = AuditPage(
        audit,
        texts={texts.pair_id: texts for texts in _texts(paths, sorted(_named(audit)))},
        affected=_affected(paths.audit_pairs, audit["findings"]),
        title=f"{paths.out.name}: scoreonce audit",
        made=f"{datetime.now().astimezone():%Y-%m-%d %H:%M}",
    )
    path = paths.audit_page
    pages.write_page(paths, path, render(page))
    return path


def _named(audit: Mapping[str, Any]) -> set[str]:
    """The pair_ids whose texts the page shows."""
    entries = [*(example for finding in audit["findings"] for example in finding["examples"]), *audit["worst"]]
    ids = {entry.get(name) for entry in entries for name in ("pair_id", "other_pair_id")}
    return {str(pair_id) for pair_id in ids if pair_id}


def _texts(paths: RunPaths, pair_ids: Sequence[str]) -> Iterator[Texts]:
    for split in SPLITS:
        path = paths.pairs(split)
        with _readable(path):
            table = scan_frame(path).filter(pl.col("pair_id").is_in(pair_ids))
            found = table.select("pair_id", "row", "prompt", "chosen", "rejected").collect(engine="streaming")
        yield from (Texts(split=split, **row) for row in found.iter_rows(named=True))


def _affected(path: Path, findings: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many pairs have any finding of each severity; empty where the findings have no columns."""
    columns: dict[str, list[str]] = {}
    for finding in findings:
        if finding["rows"]:
            columns.setdefault(finding["severity"], []).append(finding["column"])
    counts = [pl.any_horizontal(pl.col(names)).sum().alias(severity) for severity, names in columns.items()]
    with _readable(path):
        found = scan_frame(path).select(counts).collect(engine="streaming") if counts else pl.DataFrame()
    return found.row(0, named=True) if counts else {}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise InputError(
            "A file of the audit cannot be read.", found=str(error).splitlines()[0], where=str(path), fix=_FIX
        ) from None
