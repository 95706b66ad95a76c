"""JSON lines of an export, written batch by batch, and named when they are whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scoreonce.stages.common.files import atomic


@contextmanager
def json_lines(path: Path) -> Iterator[Callable[[Iterable[dict[str, Any]]], None]]:
    """A function that appends rows to a file, an object on each line."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        yield lambda rows: handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
