"""Numbers as text, for pages and terminal: few digits, a true minus sign, a dash for a missing value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import humanize

NOTHING = "–"
MINUS = "\N{MINUS SIGN}"


def is_number(value: Any) -> bool:
    """Whether the value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 3) -> str:
    """A number with that many significant digits; large counts with thousands apart; `NaN` and `∞` by name."""
    if value is None:
        return NOTHING
    if not is_number(value):
        return {"nan": "NaN", "inf": "∞", "-inf": f"{MINUS}∞"}.get(str(value), str(value))
    if value == int(value) and (isinstance(value, int) or abs(value) >= 1000):
        return f"{int(value):,}".replace("-", MINUS)
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e").replace("-", MINUS)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def percent(value: Any, digits: int = 1) -> str:
    """A share in [0, 1] as a percentage."""
    return f"{100 * value:.{digits}f}%" if is_number(value) else NOTHING


def points(value: Any) -> str:
    """A difference of shares in percentage points, signed."""
    return signed(100 * value, 1) if is_number(value) else NOTHING


def signed(value: Any, decimals: int = 2) -> str:
    """A number with its sign and a fixed number of decimals."""
    return f"{value:+.{decimals}f}".replace("-", MINUS) if is_number(value) else NOTHING


def fixed(value: Any, decimals: int = 2) -> str:
    """A number with a fixed number of decimals, for columns that are compared downwards."""
    return f"{value:.{decimals}f}".replace("-", MINUS) if is_number(value) else NOTHING


def upper_first(title: str) -> str:
    """The title with a capital at its beginning; a Greek letter, such as β, stays as it is."""
    return title[:1].upper() + title[1:] if title[:1].isascii() else title


def span(low: float | None, high: float | None) -> str:
    """A range as `2 to 5`, or `below 5` or `2 and more` where an end is open."""
    words = f"{number(low)} to {number(high)}"
    return f"below {number(high)}" if low is None else f"{number(low)} and more" if high is None else words


def duration(seconds: Any) -> str:
    """Seconds as `3.2 seconds`, `3 minutes and 20 seconds` or `2 hours and 5 minutes`."""
    if not is_number(seconds):
        return NOTHING
    smallest = "milliseconds" if seconds < 1 else "seconds" if seconds < 3600 else "minutes"
    digits = "%.1f" if 1 <= seconds < 10 else "%.0f"
    return humanize.precisedelta(seconds, minimum_unit=smallest, suppress=("days", "months", "years"), format=digits)


def clock(seconds: Any) -> str:
    """Seconds as `0:03:20`, hours first: for columns of a table."""
    return str(timedelta(seconds=round(seconds))) if is_number(seconds) else NOTHING


def size(count: int) -> str:
    """Bytes as `100 Bytes`, `12.0 KiB` or `1.2 GiB`."""
    return humanize.naturalsize(count, binary=True)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def shown(value: Any) -> str:
    """Any setting as text that can be copied into a run file: plain numbers, lists joined."""
    match value:
        case None | "" | []:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case int():
            return str(value)
        case float():
            return f"{value:.6g}".replace("e-0", "e-") if math.isfinite(value) else number(value)
        case list() | tuple():
            return ", ".join(shown(item) for item in value)
    return str(value)
