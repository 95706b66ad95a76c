"""What an audit finds of flaws of known number in real pairs: HH-RLHF and AlpacaEval.

    python benchmarks/audit_real.py

Needs the shared real data (SCOREONCE_SHARED). Writes benchmarks/results/audit_real.json and audit_real.md. Each set is
audited before and after planting; what is found after and was not before should be what was planted, row by row.
Near-duplicates are compared with an exhaustive search of the planted data as well.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import planted_real as real
import real_data

EACH = {"hh": 20, "alpaca_eval": 2}  # of every kind of flaw: there must be clean pairs for them
SIDES = {"near_duplicate_prompt": ("prompt",), "near_duplicate_completion": ("chosen", "rejected")}
SIMILARITY = 0.8


def measure(shared: Path, name: str, each: int, folder: Path) -> dict[str, Any]:
    """Of one set: its pairs, and per finding how many rows it had before, were planted, found, false and lost."""
    rows, evaluation = real.load(shared, name)
    tokenizer = shared / "data/models/hh-llama-2.8M"
    alone = real.audited(folder / "before", real.World.of(rows), tokenizer, evaluation)
    world = real.planted(rows, alone, evaluation, each=each)
    paths = real.audited(folder / "after", world, tokenizer, evaluation)
    before, after = real.found(alone), real.found(paths)
    findings = {
        finding: {
            "before": len(had := before.get(finding, set())),
            "planted": len(wanted := world.planted[finding]),
            "found": len(wanted & after[finding]),
            "false": len(after[finding] - had - wanted),
            "lost": len(had - after[finding]),
        }
        for finding in sorted(after)
    }
    near = {}
    for finding, sides in SIDES.items():
        wanted, have = real.alike(paths, sides, SIMILARITY), after[finding]
        near[finding] = {
            "rows": len(wanted),
            "recall": len(wanted & have) / len(wanted),
            "precision": len(wanted & have) / len(have),
        }
    return {"pairs": len(rows), "rows after": sum(map(len, world.rows.values())), "findings": findings, "near": near}


def page(figures: dict[str, dict[str, Any]]) -> str:
    parts = [
        f"# Flaws planted into real pairs, {date.today()}\n\n`before`: rows that the finding concerned as the "
        "data are; `found`: of the planted rows; `false`: others that it concerns since; `lost`: since not.\n"
    ]
    for name, of in figures.items():
        parts.append(
            f"\n## {name}: {of['pairs']:,} pairs, {of['rows after']:,} after planting\n\n"
            "| finding | before | planted | found | false | lost |\n|---|---|---|---|---|---|\n"
        )
        parts += [
            f"| `{finding}` | {' | '.join(map(str, row.values()))} |\n"
            for finding, row in of["findings"].items()
            if any(row.values())
        ]
        parts.append(
            "\n| near-duplicates at Jaccard 0.8, against an exhaustive search | rows | recall | precision |\n"
            "|---|---|---|---|\n"
        )
        parts += [
            f"| `{finding}` | {row['rows']} | {row['recall']:.4f} | {row['precision']:.4f} |\n"
            for finding, row in of["near"].items()
        ]
    return "".join(parts)


def main() -> None:
    shared = real_data.folder()
    figures = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        for name, each in EACH.items():
            figures[name] = measure(shared, name, each, Path(folder) / name)
    real_data.write("audit_real", figures, page(figures))


if __name__ == "__main__":
    main()
