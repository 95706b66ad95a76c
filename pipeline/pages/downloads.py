"""The data behind a page as files inside of it: links that save CSV and JSON without asking anyone for anything."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scoreonce.pipeline.pages.charts import Chart
from scoreonce.pipeline.pages.numbers import is_number, size

# A spreadsheet would take text that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Download:
    """A file of a page: its name, the address that holds all of it, and how large it is."""

    name: str
    href: str
    size: str


class _Text(list[str]):
    """What `csv` writes its lines to: the pages open no file."""

    def write(self, line: str) -> None:
        """Keep a line."""
        self.append(line)


def as_csv(name: str, rows: Sequence[Mapping[str, Any]]) -> Download:
    """A table with a line of names; columns are those of the rows together, in the order in which they first come."""
    text = _Text()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return _file(name, "text/csv", "".join(text))


def as_json(name: str, tree: Any) -> Download:
    """A tree of plain values, with null for NaN and infinity."""
    return _file(name, "application/json", json.dumps(_finite(tree), ensure_ascii=False, allow_nan=False, default=str))


def of_charts(name: str, charts: Iterable[Chart], series: Mapping[str, str] | None = None) -> Download:
    """The rows that charts are drawn from, by the name of each; `series` says what the columns are of."""
    tables = {chart.name: {"title": chart.title, "rows": chart.spec["datasets"]["rows"]} for chart in charts}
    return as_json(name, {"series": dict(series or {}), "charts": tables})


def _file(name: str, kind: str, text: str) -> Download:
    content = text.encode("utf-8", "replace")
    return Download(name, f"data:{kind};charset=utf-8;base64,{base64.b64encode(content).decode()}", size(len(content)))


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return value if value is None or is_number(value) or isinstance(value, bool) else str(value)


def _finite(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(key): _finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not is_number(tree) else tree
