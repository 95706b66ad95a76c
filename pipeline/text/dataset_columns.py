"""A dataset's own column names, by role."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
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
    "messages",
    "response_1",
    "response_2",
    "preference",
    "chosen_score",
    "rejected_score",
    "chosen_preference",
    "rejected_preference",
    "responses",
    "scores",
    "source",
)


@dataclass(frozen=True)
class Columns:
    """The dataset's column name for each role that it has."""

    names: Mapping[str, str]

    def value(self, row: Row, role: str) -> Any:
        """The row's value, None if the row or the dataset has none."""
        return row.get(self.names[role]) if role in self.names else None

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
        value = self.required(row, role)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):  # no JSON, or numbers or levels without end
                value = str(value)
        if not isinstance(value, list):
            raise RowError("wrong_type", f"{self.names[role]!r} should be a list, is {kind_of(value)}")
        return value


def number_of(value: Any, name: str) -> float | None:
    """The value as a number, None for NaN. Raises `RowError` for any other type."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise RowError("wrong_type", f"{name} should be a number, is {kind_of(value)}")
    try:
        return None if math.isnan(value) else float(value)
    except (OverflowError, ValueError):  # a whole number of over 308 digits, a signalling NaN
        raise RowError("wrong_type", f"{name} is a number that is too large") from None


def match_columns(found: list[str], renamed: Mapping[str, str]) -> Columns:
    """The column of each role; `renamed` gives a role another name, or "" for none.

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
        if name and name not in found:
            raise InputError(
                f"The dataset has no column {name!r}.",
                found=f"columns {', '.join(found)}.{did_you_mean(name, found)}",
                where=f"data.columns, {role} = {name!r}",
                fix="Use one of the columns found.",
            )
    names = {role: next((name for name in ALIASES.get(role, (role,)) if name in found), None) for role in ROLES}
    return Columns({role: name for role, name in {**names, **renamed}.items() if name})
