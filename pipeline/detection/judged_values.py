"""How often each value of a preference or a label occurs in all rows of a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from scoreonce.pipeline.detection.codings import counts_text, value_text
from scoreonce.pipeline.text.dataset_columns import Columns, Row
from scoreonce.pipeline.text.quarantine import RowError

MOST = 1_000  # values of a column that are told apart: a preference may be any number between 0 and 1
OTHERS = "any other"


class JudgedValues:
    """Counts of the values that say which response is better, or whether a completion is good."""

    def __init__(self, columns: Columns):
        self._made = columns.judged
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in columns.judged}

    def add(self, rows: Iterable[Row | RowError]) -> None:
        """Count those of these rows."""
        for row in rows:
            if isinstance(row, RowError):
                continue
            for name, counts in self._counts.items():
                value = value_text(self._made[name].value(row))
                counts[value if value in counts or len(counts) < MOST else OTHERS] += 1

    def lines(self) -> Iterator[str]:
        """One line for each column: `'winner' in all rows: model_a: 20, model_b: 17`."""
        for name, counts in self._counts.items():
            yield f"{name!r} in all rows: {counts_text(counts)}"
