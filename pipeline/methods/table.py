"""The methods as plain data, for listing and calling them."""

from __future__ import annotations

from typing import Any, TypedDict

from scoreonce.pipeline.methods.catalogue import METHODS, ROWS
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.compose import Row, hyperparameters


class TableRow(TypedDict):
    """One method, for `scoreonce methods` and docs/methods-table.md."""

    name: str
    title: str
    paper: str
    arxiv: str
    venue: str
    reads: list[str]
    differentiable: list[str]
    hyperparameters: dict[str, Any]
    meanings: dict[str, str]
    synonyms: dict[str, str]
    aliases: dict[str, dict[str, Any]]
    learning_rate: str
    objective: str
    calibration: str
    selection: str
    reduction: str
    state: dict[str, float | list[float]]
    batch_coupled: bool
    random: bool


def table() -> list[TableRow]:
    """Every named method.

    `reads` are its columns, of which it differentiates `differentiable`; `meanings` say what each hyperparameter takes;
    `aliases` are other names of it, with the settings that each stands for; `state` is what it starts with.
    """
    return [_table_row(row, row.paper or Paper("", "", "")) for row in ROWS.values()]


def _table_row(row: Row, paper: Paper) -> TableRow:
    composed = METHODS[row.name]
    stated = {name: every[0] for name, every in hyperparameters(composed).items()}
    return TableRow(
        name=row.name,
        title=row.title,
        paper=paper.title,
        arxiv=paper.arxiv,
        venue=paper.venue,
        reads=sorted(composed.reads),
        differentiable=sorted(composed.differentiable),
        hyperparameters=dict(composed.hyperparameters),
        meanings={name: f"{each.allowed.meaning}: {each.takes}" for name, each in stated.items()},
        synonyms=dict(row.synonyms),
        aliases={name: dict(differing) for name, differing in row.aliases.items()},
        learning_rate=row.learning_rate,
        objective=row.objective.name,
        calibration=row.calibration.name,
        selection=row.selection.name,
        reduction=row.reduction.name if row.reduction else "mean",
        state={name: value.tolist() for name, value in composed.init_state().items()},
        batch_coupled=composed.batch_coupled,
        random=composed.random,
    )
