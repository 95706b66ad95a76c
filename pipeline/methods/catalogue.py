"""The named methods, and `resolve`, which finds or composes one by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from scoreonce.pipeline.methods.chain import Method, Paper
from scoreonce.pipeline.methods.compose import Row, compose, registered
from scoreonce.pipeline.methods.mixture import checked_weights, parsed, weighted_sum
from scoreonce.pipeline.methods.pieces.hyperparameters import SYNONYMS, WHERE
from scoreonce.pipeline.methods.pieces.registry import PIECES, Kind, Piece
from scoreonce.pipeline.methods.pieces.standard import constant, every_pair
from scoreonce.pipeline.methods.refused import refuse
from scoreonce.schemas.errors import InputError, did_you_mean

Function = Callable[..., Any]

ROWS: dict[str, Row] = {}
METHODS: dict[str, Method] = {}  # the rows, composed, with their default hyperparameters
ALIASES: dict[str, tuple[str, Mapping[str, Any]]] = {}  # another name: the row, and defaults that differ from the row's


def method(
    name: str,
    title: str,
    *,
    paper: Paper,
    objective: Function | Mapping[Function, float],
    calibration: Function = constant,
    selection: Function = every_pair,
    reduction: Function | None = None,
    defaults: Mapping[str, Any] | None = None,
    aliases: Mapping[str, Mapping[str, Any]] | None = None,
    synonyms: Mapping[str, str] | None = None,
    learning_rate: str = "",
) -> None:
    """Add a named method, composed of registered pieces, or of a weighted sum of objectives.

    `reduction` makes the step's loss of the pairs', where that is not their weighted mean.
    `defaults` override those of the pieces. `aliases` are the names of TRL and of papers for it, each with the defaults
    that differ there; `synonyms` are other names of its hyperparameters; `learning_rate` is the paper's recommendation.
    Raises `InputError` for a name that is taken, pieces that do not go together, and a default that nothing reads.
    """
    taken = sorted({name, *(aliases or {})} & {*ROWS, *ALIASES})
    if taken:
        raise InputError(
            f"There are two methods {taken[0]!r}.",
            found=title,
            where=_module(objective),
            fix="Give one of them another name.",
        )
    row = Row(
        name,
        title,
        paper,
        _objective_of(objective),
        registered("calibration", calibration),
        registered("selection", selection),
        defaults or {},
        aliases or {},
        synonyms or {},
        learning_rate,
        registered("reduction", reduction) if reduction else None,
    )
    METHODS[name] = compose(row, row.defaults)
    ROWS[name] = row
    ALIASES.update({alias: (name, differing) for alias, differing in row.aliases.items()})


def resolve(
    name: str | None,
    settings: Mapping[str, Any],
    objective: str | Mapping[str, float] | None = None,
    calibration: str | None = None,
    selection: str | None = None,
) -> Method:
    """A named method, its pieces replaced where given; without a name, the objective's own method is the start.

    A method's reduction stays with it: `method = "dr_dpo", objective = "ipo"` is the soft minimum of IPO's losses.
    `objective` may be a weighted sum: `"0.8*dpo + 0.2*sft"`, or `{"dpo": 0.8, "sft": 0.2}`.
    Raises `InputError` for an unknown name or hyperparameter, a value out of range, pieces that do not go together,
    and with the reason for a method that cannot be trained here.
    """
    start = _start(name, objective)
    row = replace(
        start,
        objective=_objective(objective) if objective and name is not None else start.objective,
        calibration=_piece("calibration", calibration) if calibration else start.calibration,
        selection=_piece("selection", selection) if selection else start.selection,
    )
    return compose(_named(row, start), settings)


def accepted(name: str) -> frozenset[str]:
    """The names under which a method takes hyperparameters, its own and others. Raises `InputError` as `resolve`."""
    known = resolve(name, {}).hyperparameters
    others = {**SYNONYMS, **_start(name, None).synonyms}
    return frozenset(known) | {other for other, ours in others.items() if ours in known}


def _module(objective: Function | Mapping[Function, float]) -> str:
    return (next(iter(objective)) if isinstance(objective, Mapping) else objective).__module__


def _objective_of(given: Function | Mapping[Function, float]) -> Piece:
    if isinstance(given, Mapping):
        return weighted_sum({registered("objective", function): weight for function, weight in given.items()})
    return registered("objective", given)


def _start(name: str | None, objective: str | Mapping[str, float] | None) -> Row:
    if name is None and objective is not None:
        known = ROWS.get(ALIASES.get(objective, (objective, {}))[0]) if isinstance(objective, str) else None
        if known and isinstance(objective, str) and _objective(objective) is known.objective:
            return known
        return Row("", "", None, _objective(objective), _piece("calibration", "constant"), _piece("selection", "all"))
    row, differing = ALIASES.get(name or "", (name, {}))
    if row is None or row not in ROWS:
        refuse(name or "")
        raise InputError(
            "There is no such method.",
            found=f"{name}.{did_you_mean(name or '', [*ROWS, *ALIASES])}",
            where=WHERE,
            fix=f"Give one of: {', '.join(ROWS)}; or an objective, a calibration and a selection.",
        )
    return replace(ROWS[row], defaults={**ROWS[row].defaults, **differing})


def _objective(given: str | Mapping[str, float]) -> Piece:
    """An objective by its own name or that of a method which is nothing else, or a weighted sum of objectives."""
    if isinstance(given, str) and not set(given) & set("+*"):
        row, differing = ALIASES.get(given, (given, {}))
        alone = row in ROWS and not differing and given not in PIECES["objective"] and _is_objective_alone(ROWS[row])
        return ROWS[row].objective if alone else _piece("objective", given)
    weights = checked_weights(parsed(given) if isinstance(given, str) else given)
    terms = {_objective(name): float(weight) for name, weight in weights.items()}
    if len(terms) != len(weights):
        raise InputError(
            "A weighted sum has one objective under two names.",
            found=f"objective = {given!r}",
            where=WHERE,
            fix="Name each objective once.",
        )
    return weighted_sum(terms)


def _is_objective_alone(row: Row) -> bool:
    plain = row.calibration.function is constant and row.selection.function is every_pair and row.reduction is None
    return plain and not row.defaults


def _piece(kind: Kind, name: str) -> Piece:
    known = list(PIECES[kind])
    if name not in known:
        raise InputError(
            f"There is no such {kind}.",
            found=f"{name}.{did_you_mean(name, known)}",
            where=WHERE,
            fix=f"Give one of: {', '.join(known)}.",
        )
    return PIECES[kind][name]


def _named(row: Row, start: Row) -> Row:
    """The same pieces under their right name: of the method that has just these, or of the pieces themselves."""
    pieces = (row.objective, row.calibration, row.selection, row.reduction)
    if start.name and pieces == (start.objective, start.calibration, start.selection, start.reduction):
        return row
    for known in ROWS.values():
        if (known.objective, known.calibration, known.selection, known.reduction) == pieces:
            return known
    names = [piece.name for piece in pieces if piece and piece.function not in (constant, every_pair)]
    # Another objective may measure in other units; the row's own beta would then be wrong for it.
    defaults = start.defaults if row.objective is start.objective else {}
    return replace(row, name="+".join(names), title=f"Composed of {', '.join(names)}", paper=None, defaults=defaults)
