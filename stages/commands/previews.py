"""`scoreonce prepare --preview`: pairs as the model will see them, line by line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from scoreonce.pipeline.templates.preview import PairText, preview_lines, visible
from scoreonce.stages.common.results import PreviewResult


def of_pairs(pairs: Sequence[PairText]) -> Iterator[str]:
    """The lines that show some pairs, as far as the terminal has their characters; the others are escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    for number, pair in enumerate(pairs, 1):
        for line in preview_lines(number, pair):
            yield line.encode(encoding, "backslashreplace").decode(encoding)


def of_dataset(preview: PreviewResult) -> Iterator[str]:
    """The lines that show the first pairs of a dataset, and why the rows between them cannot be used."""
    yield from of_pairs(preview.pairs)
    yield f"{len(preview.pairs):,} pairs; {len(preview.refused):,} rows before them cannot be used; nothing is written"
    for row in preview.refused[: max(len(preview.pairs), 3)]:
        yield f"  row {row.row}: {row.reason}: {' '.join(visible(row.detail))}"
