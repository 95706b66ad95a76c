"""A run file as text: each line with the reason for its value."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scoreonce.schemas.errors import printable

WIDTH = 120
SECTIONS = (
    "data",
    "reference",
    "compute",
    "audit",
    "score",
    "train",
    "evaluate",
    "compare",
    "compare.vary",
    "sample",
    "judge",
    "pairs",
)


@dataclass(frozen=True)
class Line:
    """One key of a run file, `data.max_length`, its value, and why it has it.

    `sources`: keys of another tool's configuration that the value comes from. `off`: written as a comment, since the
    default stands.
    """

    key: str
    value: Any
    why: str
    sources: tuple[str, ...] = ()
    off: bool = False


def render(head: Sequence[str], lines: Sequence[Line], notes: Sequence[str] = ()) -> str:
    """The text of a run file: a comment above it, its lines by section, comments below."""
    parts = [list(_comment(head)), [_row(line) for line in lines if "." not in line.key]]
    for section in SECTIONS:
        rows = [_row(line) for line in lines if _place(line.key)[0] == section]
        parts += [[f"[{section}]", *rows]] if rows else []
    return "\n\n".join("\n".join(part) for part in [*parts, list(_comment(notes))] if part) + "\n"


def tree(lines: Iterable[Line]) -> dict[str, Any]:
    """The values as a run file's tree."""
    found: dict[str, Any] = {}
    for line in lines:
        section, key = _place(line.key)
        if not line.off:
            place = found
            for part in section.split(".") if section else []:
                place = place.setdefault(part, {})
            place[key] = line.value
    return found


def _place(key: str) -> tuple[str, str]:
    """The section of a key, the longest that begins it, and its name there, in which dots may be."""
    sections = [section for section in SECTIONS if key.startswith(f"{section}.")]
    section = max(sections, key=len, default="")
    return section, key[len(section) :].removeprefix(".")


def _row(line: Line) -> str:
    """The line with its reason behind it, or above it where the two are too long for one line."""
    written = f"{'# ' if line.off else ''}{_key(_place(line.key)[1])} = {toml(line.value)}"
    why = " ".join(printable(line.why).split())  # names of columns and keys are in it, which may have line breaks
    if len(whole := f"{written}  # {why}") <= WIDTH:
        return whole
    return "\n".join([*_comment([why]), written])


def _comment(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        indent = " " * (len(text) - len(text.lstrip()))
        wrapped = textwrap.wrap(printable(text), WIDTH - 2, subsequent_indent=f"{indent}  " if indent else "")
        yield from (f"# {part}" for part in wrapped)


def toml(value: Any) -> str:
    """A value as TOML, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return (
            "{ " + ", ".join(f"{_key(name)} = {toml(each)}" for name, each in value.items()) + " }" if value else "{}"
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for the delete character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)


def _number(value: float) -> str:
    """5e-7 and not 5e-07."""
    digits, exponent, power = repr(value).partition("e")
    return f"{digits}e{int(power)}" if exponent else digits


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else toml(name)
