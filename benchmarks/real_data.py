"""What the benchmarks share: where the real data are, and how results are written down."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import machine

RESULTS = Path(__file__).parent / "results"


def found() -> Path | None:
    """The shared real data, None where they are absent."""
    shared = Path(os.environ.get("SCOREONCE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    return shared if shared.is_dir() else None


def folder() -> Path:
    """The shared real data; ends the benchmark, saying so, where they are absent."""
    shared = found()
    if shared is None:
        print("skipped: needs the shared real data, set SCOREONCE_SHARED to its folder")
        sys.exit()
    return shared


def write(name: str, figures: dict[str, Any], table: str, *, keep: bool = True) -> None:
    """Show the table and, with `keep`, save it as Markdown beside the figures as JSON, both with date and machine."""
    measured = machine.described()
    page = f"{table}\n{machine.line(measured)}\n"
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps({"measured": measured, **figures}, indent=2) + "\n")
        (RESULTS / f"{name}.md").write_text(page)
    print(page)
