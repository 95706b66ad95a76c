"""The answers of a judge so far, in a file: an interrupted or repeated judgement asks and pays once.

A line of JSON for each answer, {"key", "answer"}, written as it comes. The key is a digest of all that decides it. A
last line that was cut short by a kill is left out, and so asked again.
"""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any, TextIO


def key_of(*decides: Any) -> str:
    """The digest of what decides an answer."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Answers:
    """The answers in a file, for the threads of one process. Its lock is that of the judgement."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found = dict(_read(path))
        self._lock = threading.Lock()
        self._file: TextIO | None = None

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def get(self, key: str) -> float | None:
        """The answer; None where there is none, or it says no one thing."""
        return self._found.get(key)

    def add(self, key: str, answer: float | None) -> None:
        """Keep an answer; None is that of a judge that answered, and said no one thing."""
        with self._lock:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("a", encoding="utf-8")
                if self._path.stat().st_size:
                    self._file.write("\n")  # ends a line that was cut short
            self._found[key] = answer
            self._file.write(json.dumps({"key": key, "answer": answer}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; a later `add` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _read(path: Path) -> list[tuple[str, float | None]]:
    if not path.is_file():
        return []
    found = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            key, answer = entry["key"], entry["answer"]
        except (ValueError, TypeError, KeyError):
            continue
        if isinstance(key, str) and (answer is None or isinstance(answer, int | float)):
            found.append((key, answer))
    return found
