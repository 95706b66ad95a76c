"""Composing pieces into a method: which combinations make sense, and what hyperparameters they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scoreonce.pipeline.methods.chain import Method, Paper
from scoreonce.pipeline.methods.pieces.derived import bases, derivation
from scoreonce.pipeline.methods.pieces.hyperparameters import SYNONYMS, WHERE, Hyperparameter
from scoreonce.pipeline.methods.pieces.registry import PIECES, Kind, Piece
from scoreonce.pipeline.methods.pieces.standard import constant, constant_beta, constant_margin, every_pair
from scoreonce.schemas.errors import InputError, did_you_mean


@dataclass(frozen=True, eq=False)
class Row:
    """A composition, from a paper's file or spelled out in a run file."""

    name: str
    title: str
    paper: Paper | None
    objective: Piece
    calibration: Piece
    selection: Piece
    defaults: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # other names, and the defaults that differ
    synonyms: Mapping[str, str] = field(default_factory=dict)  # other names of its hyperparameters
    learning_rate: str = ""
    reduction: Piece | None = None


def registered(kind: Kind, function: Callable[..., Any]) -> Piece:
    """The piece made from a function."""
    return next(piece for piece in PIECES[kind].values() if piece.function is function)


# What gives a column that the objective reads and the calibration leaves open.
FALLBACKS = {
    "beta": registered("calibration", constant_beta),
    "target_margin": registered("calibration", constant_margin),
}


def compose(row: Row, settings: Mapping[str, Any]) -> Method:
    """The method that a row describes, with these hyperparameters.

    Raises `InputError` for pieces that do not go together, an unknown hyperparameter and a value out of range.
    """
    _check_combination(row)
    fallbacks = [
        piece
        for column, piece in FALLBACKS.items()
        if column in row.objective.columns and column not in row.calibration.gives
    ]
    rewards = row.calibration.rewards or row.objective.rewards
    bare = Method(
        row.name,
        row.title,
        row.paper,
        row.selection,
        (*fallbacks, row.calibration),
        row.objective,
        PIECES["rewards"][rewards] if rewards else None,
        {},
        row.reduction,
    )
    defaults = {**row.objective.defaults, **row.defaults}
    known = hyperparameters(bare)
    return replace(bare, hyperparameters=_settled(row.name, known, defaults, _plain(row, known, settings)))


def hyperparameters(composed: Method) -> dict[str, list[Hyperparameter]]:
    """The method's hyperparameters by name, each as declared by every piece that reads it; one name is one setting."""
    read = [name for piece in composed.pieces for name in piece.columns]
    found: dict[str, list[Hyperparameter]] = {}
    calibrations_first = sorted(composed.pieces, key=lambda piece: piece.kind != "calibration")
    for piece in (*calibrations_first, *derivation(read)):
        for name, hyperparameter in piece.hyperparameters.items():
            found.setdefault(name, []).append(hyperparameter)
    return found


def _check_combination(row: Row) -> None:
    calibration, objective = row.calibration, row.objective
    for column in set(calibration.gives) - set(objective.columns):
        raise _senseless(calibration, objective, f"{calibration.name} sets {column}, and {objective.name} reads none")
    for piece in (calibration, row.selection):
        if objective.recouples and _tells_pairs_apart(piece):
            raise _senseless(
                piece,
                objective,
                f"{piece.name} gives each pair its own {' and '.join(piece.gives)}, and "
                f"{objective.name} compares completions of different pairs",
            )
    if _compares(objective):
        return
    for piece in (calibration, row.selection):
        if _compares(piece):
            raise _senseless(
                piece,
                objective,
                f"{piece.name} compares chosen with rejected completions, and "
                f"{objective.name} trains on the chosen ones alone",
            )


def _tells_pairs_apart(piece: Piece) -> bool:
    neutral = piece.function in (constant, every_pair)
    return not neutral and (piece.kind == "selection" or not piece.batch_coupled)


def _compares(piece: Piece) -> bool:
    return any("rejected" in column for column in bases(piece.columns))


def _senseless(piece: Piece, objective: Piece, reason: str) -> InputError:
    neutral = {"calibration": "constant", "selection": "all"}[piece.kind]
    return InputError(
        f"The {piece.kind} {piece.name} makes no sense with the objective {objective.name}.",
        found=reason,
        where=WHERE,
        fix=f'Set {piece.kind} = "{neutral}", or another objective.',
    )


def _plain(row: Row, known: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings under our names. Raises `InputError` where one is given under two."""
    names = {name: name if name in known else {**SYNONYMS, **row.synonyms}.get(name, name) for name in settings}
    for name, ours in names.items():
        if name != ours and ours in settings:
            raise InputError(
                f"One hyperparameter of method {row.name} is given twice.",
                found=f"{name} = {settings[name]!r}, {ours} = {settings[ours]!r}",
                where=WHERE,
                fix=f"Leave out {name}: it is another name of {ours}.",
            )
    return {ours: settings[name] for name, ours in names.items()}


def _settled(
    method: str, known: Mapping[str, list[Hyperparameter]], defaults: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    for name, value in settings.items():
        if name not in known:
            near = did_you_mean(name, list(known))
            raise InputError(
                f"Method {method} has no hyperparameter {name}.",
                found=f"{name} = {value!r}.{near}",
                where=WHERE,
                fix=f"It has {', '.join(known) or 'none'}.",
            )
    stated = {name: each.default for name, every in known.items() for each in every if each.default is not None}
    values = {**stated, **defaults, **settings}
    return {name: [each.check(values[name], method) for each in every][-1] for name, every in known.items()}
