"""What the benchmarks on real pairs share: where the data are, and how results are written down."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def folder() -> Path:
    """The shared real data; ends the benchmark, saying so, where they are absent."""
    shared = Path(os.environ.get("SCOREONCE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not shared.is_dir():
        print("skipped: needs the shared real data, set SCOREONCE_SHARED to its folder")
        sys.exit()
    return shared


def write(name: str, figures: dict[str, Any], table: str) -> None:
    """Keep the figures as JSON and as a Markdown table, and show the table."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    (RESULTS / f"{name}.md").write_text(table)
    print(table)
