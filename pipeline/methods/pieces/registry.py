"""The pieces that methods are composed of, read from signatures when their file is imported.

A piece is a plain function on named columns. Its positional parameters are the columns it reads, its keyword-only
parameters its hyperparameters, its `gives` the columns it makes. The chain of a step:

    cached and policy columns -> derived columns -> statistics -> selection -> calibration -> objective -> rewards
                                                                                              -> reduction

Selection stands before calibration because beta-DPO's beta is the mean over the *selected* pairs, in its code; a
selection never needs the beta of its own step. A statistic moves before everything that reads it, or, where it says
so (`after`), at the end of the step, which then saw the state of the step before. A name that no earlier part of the
chain can have made is refused at import, with the nearest that it can.

Dimensions: every column is (pairs,), or 0-d where it is one number for the whole step (state, a shared beta). A state
entry may also be a queue: 1-D, of any length.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_type_hints

from torch import Tensor

from scoreonce.pipeline.methods.pieces.hyperparameters import Hyperparameter
from scoreonce.schemas.columns import COLUMNS, of_another
from scoreonce.schemas.errors import InputError, did_you_mean

Kind = Literal["derived", "statistic", "selection", "calibration", "objective", "rewards", "reduction"]
Function = TypeVar("Function", bound=Callable[..., Any])

MADE_EARLIER: dict[Kind, tuple[str, ...]] = {
    "derived": (),
    "statistic": (),
    "selection": (),
    "calibration": ("weight",),
    "objective": ("beta", "target_margin"),
    "rewards": ("beta", "target_margin", "weight"),
    "reduction": ("loss", "weight"),
}
MADE_BY_THE_CHAIN = frozenset({"beta", "target_margin", "weight", "loss"})


class OnlyWith(NamedTuple):
    """In the annotation of a derived column's parameter, whose default is None: the column is read only then."""

    setting: str  # a hyperparameter of the same function
    value: str


@dataclass(frozen=True, eq=False)
class Piece:
    """One function of a method, and what its signature says."""

    kind: Kind
    name: str
    function: Callable[..., Any]
    columns: tuple[str, ...]
    hyperparameters: Mapping[str, Hyperparameter]
    gives: tuple[str, ...]
    batch_coupled: bool = False  # what it gives a pair depends on the columns of others
    # Statistics: what an entry starts at: a number, the hyperparameter that is it, or () for an empty queue.
    initial: Mapping[str, float | str | tuple[()]] = field(default_factory=dict)
    after: Mapping[str, str] | None = None  # statistics: with these settings, moved at the end of the step
    recouples: bool = False  # objectives: a loss is of two completions that need not be one pair
    rewards: str | None = None  # objectives and calibrations: how their implicit rewards are logged
    defaults: Mapping[str, Any] = field(default_factory=dict)  # objectives: where their scale wants other defaults
    parts: tuple[Piece, ...] = ()  # weighted sums: the objectives
    columns_with: Mapping[str, OnlyWith] = field(default_factory=dict)  # derived: base columns that a setting adds

    def added(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """The columns that it reads with these settings beside `columns`."""
        return tuple(name for name, only in self.columns_with.items() if settings[only.setting] == only.value)

    def __call__(self, columns: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """The columns it gives, by name. Raises `InputError` where a function of a method file raises an error."""
        given = [columns[name] for name in self.columns]
        named = {name: columns[name] for name in self.added(settings)}
        named |= {name: settings[name] for name in self.hyperparameters}
        try:
            result = self.function(*given, **named)
        except (Exception, SystemExit) as error:
            if isinstance(error, InputError) or self.function.__module__.startswith("scoreonce."):
                raise
            raise _failed(self, error) from error
        return dict(zip(self.gives, (result,) if isinstance(result, Tensor) else result, strict=True))

    def moves_after(self, settings: Mapping[str, Any]) -> bool:
        """Whether a statistic moves at the end of the step, so that its own step does not see it moved."""
        return self.after is not None and all(settings[name] == value for name, value in self.after.items())


def _failed(piece: Piece, error: BaseException) -> InputError:
    file = inspect.getfile(piece.function)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return InputError(
        f"The {piece.kind} {piece.name} raised an error.",
        found=f"{type(error).__name__}: {error}",
        where=f"{file}, line {lines[-1] if lines else 'unknown'}",
        fix="Correct the function.",
    )


PIECES: dict[Kind, dict[str, Piece]] = {kind: {} for kind in MADE_EARLIER}


def state_names() -> dict[str, Piece]:
    """Every state entry, and the statistic that keeps it."""
    return {name: statistic for statistic in PIECES["statistic"].values() for name in statistic.gives}


def base_columns() -> list[str]:
    """The declared columns that hold one number per pair and come from files or a forward pass."""
    strings = ("string", "list[int32]", "list[float32]")
    return [
        name
        for name, column in COLUMNS.items()
        if column.dtype not in strings and name not in MADE_BY_THE_CHAIN and name not in PIECES["derived"]
    ]


def derived(function: Function) -> Function:
    """A column computed from others, named as its function; its hyperparameters become those of whoever reads it."""
    return _register("derived", function, (function.__name__,))


def statistic(
    *, initial: Mapping[str, float | str | tuple[()]], after: Mapping[str, str] | None = None
) -> Callable[[Function], Function]:
    """A running statistic over steps: reads columns and its own state, returns its new state in `initial`'s order.

    `initial` has a number for each entry, the name of the hyperparameter that it starts at, or () for a queue that is
    empty at first (1-D, float64). `after`: the settings
    of its own hyperparameters with which it moves at the end of the step instead of before use ({}: always).
    """
    return lambda function: _register(
        "statistic", function, tuple(initial), batch_coupled=True, initial=initial, after=after
    )


def selection(*, batch_coupled: bool, name: str | None = None) -> Callable[[Function], Function]:
    """A selection: returns `weight`, at least 0; 0 drops the pair from the step's loss."""
    return lambda function: _register("selection", function, ("weight",), name=name, batch_coupled=batch_coupled)


def calibration(
    *gives: Literal["beta", "target_margin"], batch_coupled: bool, rewards: Callable[..., Any] | None = None
) -> Callable[[Function], Function]:
    """A calibration: returns `beta` and/or `target_margin`, in the order of `gives`, per pair or 0-d."""
    return lambda function: _register(
        "calibration", function, gives, batch_coupled=batch_coupled, rewards=rewards.__name__ if rewards else None
    )


def objective(
    *,
    rewards: Callable[..., Any] | None = None,
    batch_coupled: bool = False,
    recouples: bool = False,
    **defaults: float | str,
) -> Callable[[Function], Function]:
    """An objective: returns the loss of each pair. `defaults` are hyperparameter defaults that fit its scale."""
    return lambda function: _register(
        "objective",
        function,
        ("loss",),
        batch_coupled=batch_coupled,
        recouples=recouples,
        defaults=defaults,
        rewards=rewards.__name__ if rewards else None,
    )


def reduction(function: Function) -> Function:
    """What makes one loss, 0-d, of the pairs' losses and weights, where that is not their weighted mean."""
    return _register("reduction", function, ("step_loss",), batch_coupled=True)


def rewards(*gives: Literal["chosen_rewards", "rejected_rewards"]) -> Callable[[Function], Function]:
    """Implicit rewards, for logging only: returned in the order of `gives`."""
    return lambda function: _register("rewards", function, gives)


def _register(
    kind: Kind,
    function: Function,
    gives: tuple[str, ...],
    *,
    name: str | None = None,
    initial: Mapping[str, float | str | tuple[()]] | None = None,
    **facts: Any,
) -> Function:
    name = name or function.__name__
    where = f"{function.__module__}.{function.__name__}"
    if name in PIECES[kind]:
        raise InputError(
            f"There are two of the {kind} {name!r}.",
            where=where,
            fix="Give one of them another name.",
            found=f"one more, after that of {PIECES[kind][name].function.__module__}",
        )
    parameters = inspect.signature(function).parameters.values()
    hints = get_type_hints(function, include_extras=True)
    read = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    only = {
        name: mark
        for name in read
        if kind == "derived"
        for mark in get_args(hints.get(name))
        if isinstance(mark, OnlyWith)
    }
    columns = tuple(name for name in read if name not in only)
    settings = {
        p.name: Hyperparameter.of(p.name, hints.get(p.name, float), None if p.default is p.empty else p.default)
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
    }
    further = (of_another(name) for name in read)
    COLUMNS.update({column.name: column for column in further if column})
    known = [*base_columns(), *PIECES["derived"], *MADE_EARLIER[kind], *(initial or ())]
    _check_columns(kind, columns, known if kind == "derived" else [*known, *state_names()], where)
    _check_columns(kind, tuple(only), base_columns(), where)
    PIECES[kind][name] = Piece(
        kind, name, function, columns, settings, gives, initial=initial or {}, columns_with=only, **facts
    )
    return function


def _check_columns(kind: Kind, columns: tuple[str, ...], known: list[str], where: str) -> None:
    for name in columns:
        if name not in known:
            late = " It is made later in the chain." if name in MADE_BY_THE_CHAIN else did_you_mean(name, known)
            raise InputError(
                f"A {kind} reads a column that does not exist there: {name}.",
                found=f"parameter {name!r}.{late}",
                where=where,
                fix=f"Positional parameters are columns; known here: {', '.join(known)}.",
            )
