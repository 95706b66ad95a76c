"""The named methods, and `resolve`, which finds or composes one by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypedDict

from scoreonce.pipeline.errors import InputError
from scoreonce.pipeline.methods.chain import Method, Paper
from scoreonce.pipeline.methods.compose import Row, compose, hyperparameters, registered
from scoreonce.pipeline.methods.hyperparameters import WHERE
from scoreonce.pipeline.methods.plain import constant, every_pair
from scoreonce.pipeline.methods.registry import PIECES, Kind, Piece
from scoreonce.schemas.columns import did_you_mean

ROWS: dict[str, Row] = {}
METHODS: dict[str, Method] = {}  # the rows, composed, with their default hyperparameters


class TableRow(TypedDict):
    """One method as plain data, for `scoreonce methods` and the README."""

    name: str
    title: str
    paper: str
    arxiv: str
    venue: str
    reads: list[str]
    hyperparameters: dict[str, Any]
    meanings: dict[str, str]
    objective: str
    calibration: str
    selection: str
    batch_coupled: bool
    random: bool


def method(name: str, title: str, *, paper: Paper, objective: Callable[..., Any],
           calibration: Callable[..., Any] = constant, selection: Callable[..., Any] = every_pair,
           defaults: Mapping[str, Any] | None = None) -> None:
    """Add a named method, composed of registered pieces; `defaults` override those of the pieces.

    Raises `InputError` for a name that is taken, pieces that do not go together, and a default that nothing reads.
    """
    if name in ROWS:
        raise InputError(f"There are two methods {name!r}.", found=title, where=objective.__module__,
                         fix="Give one of them another name.")
    row = Row(name, title, paper, registered("objective", objective), registered("calibration", calibration),
              registered("selection", selection), defaults or {})
    METHODS[name] = compose(row, row.defaults)
    ROWS[name] = row


def resolve(name: str | None, settings: Mapping[str, Any], objective: str | None = None,
            calibration: str | None = None, selection: str | None = None) -> Method:
    """A named method, its pieces replaced where given; without a name, the objective's own method is the start.

    Raises `InputError` for an unknown name or hyperparameter, a value out of range, and pieces that do not go together.
    """
    start = _start(name, objective)
    row = replace(start, objective=_piece("objective", objective) if objective else start.objective,
                  calibration=_piece("calibration", calibration) if calibration else start.calibration,
                  selection=_piece("selection", selection) if selection else start.selection)
    return compose(_named(row, start), settings)


def table() -> list[TableRow]:
    """Every named method: title, paper, columns read, hyperparameters with defaults and meanings, pieces."""
    return [_table_row(row, METHODS[name], row.paper or Paper("", "", "")) for name, row in ROWS.items()]


def _table_row(row: Row, composed: Method, paper: Paper) -> TableRow:
    said = {name: every[0] for name, every in hyperparameters(composed).items()}
    return TableRow(
        name=row.name, title=row.title, paper=paper.title, arxiv=paper.arxiv, venue=paper.venue,
        reads=sorted(composed.reads), hyperparameters=dict(composed.hyperparameters),
        meanings={name: f"{each.allowed.meaning}: {each.takes}" for name, each in said.items()},
        objective=row.objective.name, calibration=row.calibration.name, selection=row.selection.name,
        batch_coupled=composed.batch_coupled, random=composed.random)


def _start(name: str | None, objective: str | None) -> Row:
    if name is None and objective is not None:
        return ROWS.get(objective) or Row("", "", None, _piece("objective", objective),
                                          _piece("calibration", "constant"), _piece("selection", "all"), {})
    if name is None or name not in ROWS:
        raise InputError("There is no such method.", found=f"{name}.{did_you_mean(name or '', list(ROWS))}",
                         where=WHERE,
                         fix=f"Give one of: {', '.join(ROWS)}; or an objective, a calibration and a selection.")
    return ROWS[name]


def _piece(kind: Kind, name: str) -> Piece:
    known = list(PIECES[kind])
    if name not in known:
        raise InputError(f"There is no such {kind}.", found=f"{name}.{did_you_mean(name, known)}", where=WHERE,
                         fix=f"Give one of: {', '.join(known)}.")
    return PIECES[kind][name]


def _named(row: Row, start: Row) -> Row:
    """The same pieces under their right name: of the method that has just these, or of the pieces themselves."""
    pieces = (row.objective, row.calibration, row.selection)
    for known in ROWS.values():
        if (known.objective, known.calibration, known.selection) == pieces:
            return known
    names = [piece.name for piece in pieces if piece.function not in (constant, every_pair)]
    # Another objective may measure in other units; the row's own beta would then be wrong for it.
    defaults = start.defaults if row.objective is start.objective else {}
    return replace(row, name="+".join(names), title=f"Composed of {', '.join(names)}", paper=None, defaults=defaults)
