"""Reading metrics.jsonl while it grows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Tail:
    """The whole lines of a file so far. Each call reads what was added; a half-written last line waits for the next.

    Where the file became shorter, or another one took its place (`train` cuts it back to a checkpoint when it resumes),
    it is read from its beginning. `unreadable` counts whole lines that are no JSON objects.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.unreadable = 0
        self._read = 0  # bytes
        self._inode = -1

    def update(self) -> list[dict[str, Any]]:
        """All rows, the new ones among them; none where there is no file."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._read:
                    self.rows, self.unreadable, self._read, self._inode = [], 0, 0, status.st_ino
                file.seek(self._read)
                self._add(file.read())
        except FileNotFoundError:
            self.rows, self.unreadable, self._read, self._inode = [], 0, 0, -1
        return self.rows

    def _add(self, text: bytes) -> None:
        whole, newline, _ = text.rpartition(b"\n")
        self._read += len(whole) + len(newline)
        for line in whole.split(b"\n") if newline else ():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                self.rows.append(row)
            else:
                self.unreadable += 1
