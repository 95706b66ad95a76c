"""The methods, and where a run keeps its files: what the command line prints without running a stage."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scoreonce.schemas.columns import COLUMNS, EXPONENTIAL_DRAWS, Kept
from scoreonce.schemas.errors import InputError, did_you_mean
from scoreonce.stages.common.paths import SPLITS, RunPaths
from scoreonce.stages.config import Run

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from scoreonce.pipeline.methods import TableRow

Located = Callable[[Run, RunPaths], list[Path]]


def _inputs(run: Run, paths: RunPaths) -> list[Path]:
    models = [run.reference, *run.reference.other.values()]
    names = [run.data.source, run.data.test_source, run.data.tokenizer]
    names += [name for model in models for name in (model.model, model.adapter)]
    return list(dict.fromkeys(found for name in names if name for found in _with_contents(Path(name))))


def _with_contents(path: Path) -> list[Path]:
    """A local file, or a local folder and its files; nothing for a Hub name."""
    if path.is_dir():
        return [path, *sorted(found for found in path.rglob("*") if found.is_file())]
    return [path] if path.exists() else []


LOCATED: dict[str, Located] = {
    "inputs": _inputs,
    "pairs": lambda run, paths: [paths.pairs(split) for split in SPLITS],
    "tokens": lambda run, paths: [paths.tokens(split) for split in SPLITS],
    "quarantine": lambda run, paths: [paths.quarantine],
    "audit": lambda run, paths: [paths.audit_page, paths.audit_summary, paths.audit_pairs],
    "store": lambda run, paths: [paths.store],
    "reference": lambda run, paths: [paths.reference(split) for split in SPLITS],
    "train": lambda run, paths: [paths.training],
    "policy": lambda run, paths: [paths.policy],
    "evaluate": lambda run, paths: [paths.evaluation],
    "samples": lambda run, paths: [paths.samples(paths.label)],
    "compare": lambda run, paths: [paths.comparison_page, paths.comparison_summary, paths.trials],
    "report": lambda run, paths: [paths.report],
    "out": lambda run, paths: [paths.out],
}


def paths(run: Run, what: str) -> list[Path]:
    """The paths of one kind: `inputs` are the local files that a run reads, the others what it writes.

    Raises `InputError` for an unknown kind.
    """
    if what not in LOCATED:
        raise InputError(
            "There is no such thing to locate.",
            found=f"{what}.{did_you_mean(what, list(LOCATED))}",
            where="scoreonce path RUN.toml WHAT",
            fix=f"Give one of: {', '.join(LOCATED)}.",
        )
    return LOCATED[what](run, RunPaths.of(run))


def methods(name: str | None, style: Literal["text", "markdown", "json"], file: Path | None = None) -> str:
    """The methods, or one of them: a list for a terminal, a Markdown table (docs/methods-table.md), or JSON.

    `file` is run first and adds the methods that it registers. Raises `InputError` for an unknown name.
    """
    from scoreonce.pipeline.methods import ALIASES, table
    from scoreonce.stages.common.method_file import load_file

    if file is not None:
        logger.warning(f"running the code of {file}")
        load_file(str(file))
    rows = table()
    known = [row["name"] for row in rows]
    meant = ALIASES[name][0] if name in ALIASES else name
    if meant is not None and meant not in known:
        raise InputError(
            "There is no such method.",
            found=f"{name}.{did_you_mean(meant, [*known, *ALIASES])}",
            where="scoreonce methods NAME",
            fix=f"Give one of: {', '.join(known)}.",
        )
    chosen = [row for row in rows if meant in (None, row["name"])]
    match style:
        case "json":
            return json.dumps(chosen, indent=2, ensure_ascii=False)
        case "markdown":
            return _markdown(chosen)
        case "text":
            return "\n".join(map(_line, chosen)) if name is None else _page(chosen[0])


def _line(row: TableRow) -> str:
    return f"{row['name']:<10} {row['title']}\n{'':<10} {_settings(row)}"


def _page(row: TableRow) -> str:
    pieces = ", ".join(f"{kind} {row[kind]}" for kind in ("objective", "calibration", "selection"))
    return "\n".join(
        [
            f"{row['name']}: {row['title']}",
            f"  paper     {row['paper']}, {row['venue']}, arXiv {row['arxiv']}",
            f"  pieces    {pieces}",
            f"  reads     {', '.join(row['reads'])}",
            f"  cached    {cached(row).replace('`', '')}",
            *(
                f"  {key} = {json.dumps(value)}\n{'':<12}{row['meanings'][key]}"
                for key, value in row["hyperparameters"].items()
            ),
        ]
    )


def _markdown(rows: Sequence[TableRow]) -> str:
    names = ["method", "what it changes", "paper", "reads from the cache", "hyperparameters", "learning rate there"]
    head = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    cells = (
        [f"`{row['name']}`", row["title"], _link(row), cached(row), _settings(row, "`"), row["learning_rate"]]
        for row in rows
    )
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in cells)])


def _link(row: TableRow) -> str:
    paper = f"[{row['arxiv']}](https://arxiv.org/abs/{row['arxiv']})" if row["arxiv"] else row["paper"]
    return f"{paper}, {row['venue']}" if row["venue"] else paper


# What `score` keeps of the reference on request, as the table names it.
KEPT: dict[Kept, str] = {
    "distributions": "the reference's hidden states or top-k log-probs",
    "hidden states": "the reference's hidden states",
    "mismatched completion": "the mismatched completion",
    "token log-probs": "the reference's log-prob of each token",
}


def cached(row: TableRow) -> str:
    """What a method reads of the files that `prepare` and `score` write, as Markdown."""
    read = [COLUMNS[name] for name in row["reads"]]
    columns = [
        f"`{column.name}`"
        for column in read
        if not column.name.startswith("policy_") and column.name != EXPONENTIAL_DRAWS.name
    ]
    others = dict.fromkeys(f"token log-probs of `{other}`" for c in read if c.needs for other in c.others)
    kept = [text for needs, text in KEPT.items() if any(column.needs == needs for column in read)]
    return ", ".join([*columns, *kept, *others]) or "nothing"


def _settings(row: TableRow, quote: str = "") -> str:
    return ", ".join(f"{quote}{key} = {json.dumps(value)}{quote}" for key, value in row["hyperparameters"].items())
