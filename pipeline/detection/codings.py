"""How values state which of two responses is better, and whether a completion is good.

A coding of two values is named as the value for the first response, a slash, the value for the second.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from scoreonce.pipeline.text.quarantine import RowError, kind_of
from scoreonce.schemas.errors import InputError

TIE = 0.5
FIRST = {"a", "model_a", "response_a", "assistant_a", "response_1", "first"}
SECOND = {"b", "model_b", "response_b", "assistant_b", "response_2", "second"}
TIES = {"c", "tie", "tie (bothbad)", "both_bad", "bothbad", "both", "draw", "equal", "neither"}
GOOD = {"true", "1", "yes", "good", "desirable", "chosen", "positive", "thumbs_up"}
BAD = {"false", "0", "-1", "no", "bad", "undesirable", "rejected", "negative", "thumbs_down"}


@dataclass(frozen=True)
class Coding:
    """`read` gives 0 where the first response is better, 1 where the second is, 0.5 for a tie; between them a
    probability; None for a value that the coding does not have."""

    meaning: str
    read: Callable[[Any], float | None]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _second_if_1(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and 0 <= number <= 1 else None


def _first_if_1(value: Any) -> float | None:
    number = _second_if_1(value)
    return None if number is None else 1 - number


def _one_or_two(value: Any) -> float | None:
    number = _number(value)
    return number - 1 if number in (1.0, 1.5, 2.0) else None


def _letter(value: Any) -> float | None:
    text = value.strip().lower() if isinstance(value, str) else None
    return 0.0 if text in FIRST else 1.0 if text in SECOND else TIE if text in TIES else None


def _signed(value: Any) -> float | None:
    number = _number(value)
    return None if number is None else TIE if number == 0 else float(number > 0)


CODINGS: dict[str, Coding] = {
    "0/1": Coding("0: the first is better, 1: the second; between them a probability", _second_if_1),
    "1/0": Coding("1: the first is better, 0: the second; between them a probability", _first_if_1),
    "1/2": Coding("1: the first is better, 2: the second", _one_or_two),
    "A/B": Coding("A or model_a: the first is better, B or model_b: the second", _letter),
    "signed": Coding("below 0: the first is better, above 0: the second", _signed),
}
# Those that the values alone can tell apart. Of 0 and 1, 0/1 is taken; 1/0 has the same values.
TOLD_BY_VALUES = ("0/1", "1/2", "A/B", "signed")


def coding_of(values: Sequence[Any], column: str) -> str:
    """The coding that these values of a column have. Raises `InputError` where they fit none, or none for certain."""
    for name in TOLD_BY_VALUES:
        if all(CODINGS[name].read(value) is not None for value in values) and (
            name != "signed" or any((_number(value) or 0) < 0 for value in values)
        ):
            return name
    raise InputError(
        f"The values of {column!r} do not say which response is better.",
        found=counted(values),
        where=f"the column {column!r}, the preference",
        fix=f"Name their coding under data.preference; rows with other values go to quarantine. {_codings()}",
    )


def _codings() -> str:
    return "; ".join(f'"{name}" ({coding.meaning})' for name, coding in CODINGS.items()) + "."


def better(value: Any, name: str, column: str) -> float:
    """0 where the first response is better, 1 where the second is. Raises `RowError` for a tie and a foreign value."""
    found = CODINGS[name].read(value)
    if found is None:
        meaning = CODINGS[name].meaning
        raise RowError("no_preference", f"{column!r} is {kind_of(value)}; data.preference = {name!r}: {meaning}")
    if found == TIE:
        raise RowError("no_preference", f"{column!r} is {kind_of(value)}: a tie")
    return found


def winner(flags: Sequence[Any], columns: Sequence[str]) -> float:
    """0 where the flag of the first response is set, 1 for the second. Raises `RowError` unless just one flag is set.

    `flags`: of the first response, of the second, and perhaps of a tie.
    """
    raised = [label_of(flag, column) for flag, column in zip(flags, columns, strict=True)]
    if raised[:2] == [True, False] and not any(raised[2:]):
        return 0.0
    if raised[:2] == [False, True] and not any(raised[2:]):
        return 1.0
    found = ", ".join(f"{column} = {flag}" for column, flag in zip(columns, flags, strict=True))
    raise RowError("no_preference", f"{found}: {'a tie' if any(raised[2:]) else 'not just one is set'}")


def label_of(value: Any, column: str) -> bool:
    """Whether a completion is good. Raises `RowError` for a value that does not say so."""
    text = str(int(value)) if isinstance(value, bool) or value in (0, 1, -1) else value
    text = text.strip().lower() if isinstance(text, str) else None
    if text in GOOD:
        return True
    if text in BAD:
        return False
    raise RowError("wrong_type", f"{column!r} should be true or false, is {kind_of(value)}")


def counted(values: Iterable[Any], most: int = 8) -> str:
    """The values with their numbers, the most frequent first: `1: 20, 2: 17`."""
    return counts_text(Counter(map(value_text, values)), most)


def value_text(value: Any) -> str:
    """A value as a message shows it."""
    return "null" if value is None else f"{value!s:.30}"


def counts_text(counts: Counter[str], most: int = 8) -> str:
    """Values with their numbers, as `counted` returns them."""
    shown = [f"{value}: {count:,}" for value, count in counts.most_common(most)]
    return ", ".join([*shown, *([f"and {len(counts) - most:,} other values"] if len(counts) > most else [])])
