"""A dataset's own column names, by role."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from scoreonce.pipeline.text.quarantine import RowError, kind_of
from scoreonce.schemas.errors import InputError, did_you_mean

Row = Mapping[str, Any]
# Names used by published datasets. `data.columns` takes precedence.
ALIASES = {
    "chosen_score": ("chosen_score", "score_chosen"),
    "rejected_score": ("rejected_score", "score_rejected"),
    # The names in SPPO's data.
    "chosen_preference": ("chosen_preference", "chosen_probs_win"),
    "rejected_preference": ("rejected_preference", "chosen_probs_lose"),
    "system": ("system", "system_prompt"),
}
ROLES = (
    "prompt",
    "system",
    "tools",
    "chosen",
    "rejected",
    "completion",
    "label",
    "messages",
    "response_1",
    "response_2",
    "preference",
    "winner_1",
    "winner_2",
    "winner_tie",
    "chosen_score",
    "rejected_score",
    "chosen_preference",
    "rejected_preference",
    "responses",
    "scores",
    "ranks",
    "source",
)
NOT_USED = ""  # the name of a column in `data.columns` that leaves a role out


@dataclass(frozen=True)
class Made:
    """A role's value that is made of some columns of a row. `value` raises `RowError` where it cannot be."""

    reads: tuple[str, ...]
    value: Callable[[Row], Any]


@dataclass(frozen=True)
class Columns:
    """The dataset's column name for each role that it has.

    The value of a role in `made` is made of columns; its name is then what a message calls it. `media` are columns that
    must be empty, because their content would belong to the prompt and is not text. `judged`: the values, as they are
    in the dataset, that say which of two responses is better or whether a completion is good.
    """

    names: Mapping[str, str]
    made: Mapping[str, Made] = field(default_factory=dict)
    media: tuple[str, ...] = ()
    judged: Mapping[str, Made] = field(default_factory=dict)

    @property
    def read(self) -> list[str]:
        """The dataset's columns that are read."""
        read = [column for role in self.names for column in self.reads(role)]
        return list(dict.fromkeys([*read, *self.media]))

    def reads(self, role: str) -> tuple[str, ...]:
        """The dataset's columns that a role's value is made of."""
        return self.made[role].reads if role in self.made else (self.names[role],)

    def value(self, row: Row, role: str) -> Any:
        """The row's value, None if the row or the dataset has none."""
        if role in self.made:
            return self.made[role].value(row)
        return row.get(self.names[role]) if role in self.names else None

    def require_only_text(self, row: Row) -> None:
        """Raise `RowError` for a row with an image, audio or video."""
        for name in self.media:
            if row.get(name) not in (None, "", [], {}):
                raise RowError("not_only_text", f"{name!r} is {kind_of(row[name])}")

    def required(self, row: Row, role: str) -> Any:
        """The row's value. Raises `RowError` if it is missing."""
        value = self.value(row, role)
        if value is None:
            raise RowError("missing_value", f"no {self.names.get(role, role)!r}")
        return value

    def text(self, row: Row, role: str) -> str:
        """The row's text. Raises `RowError` if it is missing or not text."""
        value = self.required(row, role)
        if not isinstance(value, str):
            raise RowError("wrong_type", f"{self.names[role]!r} should be text, is {kind_of(value)}")
        return value

    def number(self, row: Row, role: str) -> float | None:
        """The row's number, None if it is missing or NaN. Raises `RowError` for any other type."""
        value = self.value(row, role)
        return None if value is None else number_of(value, repr(self.names[role]))

    def probability(self, row: Row, role: str) -> float | None:
        """The row's probability, None if it is missing. Raises `RowError` for anything outside 0 to 1."""
        value = self.number(row, role)
        if value is not None and not 0 <= value <= 1:
            raise RowError("not_a_probability", f"{self.names[role]!r} is {value:g}")
        return value

    def items(self, row: Row, role: str) -> list[Any]:
        """The row's list, which may be JSON text. Raises `RowError` if it is missing or not a list."""
        value = json_value(self.required(row, role))
        if not isinstance(value, list):
            raise RowError("wrong_type", f"{self.names[role]!r} should be a list, is {kind_of(value)}")
        return value


def number_of(value: Any, name: str) -> float | None:
    """The value as a number, None for NaN.

    Raises `RowError` for any other type, and for an integer beyond the range of a 64-bit float.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise RowError("wrong_type", f"{name} should be a number, is {kind_of(value)}")
    try:
        return None if math.isnan(value) else float(value)
    except (OverflowError, ValueError):  # a whole number of over 308 digits, a signalling NaN
        raise RowError("wrong_type", f"{name} is a number that is too large") from None


def match_columns(found: list[str], renamed: Mapping[str, str]) -> Columns:
    """The column of each role; `renamed` gives a role another name, or "" for none.

    A name such as `answers.rank` is a field of the objects in a column.
    Raises `InputError` for a role or a column that does not exist.
    """
    for role, name in renamed.items():
        if role not in ROLES:
            raise InputError(
                f"data.columns has an unknown role: {role}.",
                found=f"{role} = {name!r}.{did_you_mean(role, list(ROLES))}",
                where="data.columns",
                fix=f"Use one of these on the left of the equals sign: {', '.join(ROLES)}.",
            )
        if name not in found and name.partition(".")[0] not in [*found, NOT_USED]:
            raise InputError(
                f"The dataset has no column {name!r}.",
                found=f"columns {', '.join(found)}.{did_you_mean(name, found)}",
                where=f"data.columns, {role} = {name!r}",
                fix="Use one of the columns found.",
            )
    names = {role: next((name for name in ALIASES.get(role, (role,)) if name in found), NOT_USED) for role in ROLES}
    names = {role: name for role, name in {**names, **renamed}.items() if name != NOT_USED}
    nested = {role: _field(name.split(".")) for role, name in names.items() if name not in found}
    return Columns(names, nested)


def _field(path: Sequence[str]) -> Made:
    """A field of the objects in a column: of one object its value, of a list of objects the list of their values."""
    column, *keys = path

    def value(row: Row) -> Any:
        found = json_value(row.get(column))
        for key in keys:
            found = [_of(item, key) for item in found] if isinstance(found, list) else _of(found, key)
        return found

    return Made((column,), value)


def _of(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, dict) else None


def json_value(value: Any) -> Any:
    """A list or an object that is written as JSON text, as in CSV; every other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
