"""One finding, and how grave it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from scoreonce.stages.doctor.facts import Facts

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """What was found and what to do. An error would stop a stage; with a warning it is slow or may fail later."""

    level: Level
    what: str
    fix: str


Check = Callable[[Facts], Iterator[Finding]]
