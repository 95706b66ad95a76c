"""The configuration of another tool, key by key: what it becomes here, or why it does not.

Each key that a file has ends in exactly one place: in a line of the run file, in the list of what is not needed or not
supported, each with the reason, or in the list of unknown keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from scoreonce.schemas.errors import InputError, did_you_mean
from scoreonce.stages.run_text import Line, toml

Verdict = Literal["maps", "not needed", "not supported"]
OFF: tuple[Any, ...] = (None, False, 0, "", "no", "none", "None", "null", [], {})
LARGEST_FILE = 1 << 20  # bytes
SHOWN = 120  # characters of a value in a list


@dataclass(frozen=True)
class Key:
    """A key of another tool: whether it maps, to which keys of a run file, and how; or the reason why it does not."""

    verdict: Verdict
    why: str
    ours: str = ""


@dataclass(frozen=True)
class Remark:
    """A key that a file has and that no line comes from."""

    key: str
    value: Any
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Translation:
    """A run file's lines, and what became of every other key of the file that they come from."""

    tool: str
    lines: tuple[Line, ...]
    remarks: tuple[Remark, ...] = ()
    unknown: tuple[str, ...] = ()

    def notes(self) -> Iterator[str]:
        """The keys without a line, by verdict and reason."""
        for verdict in ("not supported", "not needed"):
            found = sorted((each for each in self.remarks if each.verdict == verdict), key=lambda each: each.why)
            if not found:
                continue
            yield f"{verdict.capitalize()} here, of the keys that the file has:"
            for why, remarks in groupby(found, key=lambda each: each.why):
                yield f"  {', '.join(_shown(each, verdict) for each in remarks)}: {why}"
        if self.unknown:
            yield f"Not mapped, because nothing here says what they are in {self.tool}:"
            yield from (f"  {name}" for name in self.unknown)


def _shown(remark: Remark, verdict: Verdict) -> str:
    if verdict == "not needed":
        return remark.key
    value = toml(remark.value) if remark.value is not None else "null"
    return f"{remark.key} = {value[:SHOWN]}{'…' if len(value) > SHOWN else ''}"


@dataclass(frozen=True)
class Given:
    """The keys of a configuration, read as what they should be. YAML 1.1 has 5e-7 as text, which is read as a number.

    Each reader gives `default` where the key is missing or null, and raises `InputError` for a value of another kind.
    """

    tool: str
    where: str
    values: Mapping[str, Any]

    def has(self, name: str) -> bool:
        """Whether the key is there and says something."""
        return self.values.get(name) not in (None, "None", "none", "null", [], {})

    def number(self, name: str, default: float) -> float:
        """A number."""
        if not self.has(name):
            return default
        value = self.values[name]
        try:
            return default if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            raise self.wrong(name, "a number") from None

    def whole(self, name: str, default: int) -> int:
        """A whole number."""
        value = self.number(name, default)
        if value != int(value):
            raise self.wrong(name, "a whole number")
        return int(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false, also as text."""
        if not self.has(name):
            return default
        value = str(self.values[name]).lower()
        if value not in ("true", "false", "1", "0", "yes", "no"):
            raise self.wrong(name, "true or false")
        return value in ("true", "1", "yes")

    def text(self, name: str, default: str) -> str:
        """A text. YAML 1.1 has an unquoted `no` as false."""
        if not self.has(name):
            return default
        value = self.values[name]
        if not isinstance(value, str | int | float):
            raise self.wrong(name, "a text")
        return ("yes" if value else "no") if isinstance(value, bool) else str(value)

    def texts(self, name: str) -> list[str]:
        """A list of texts, also as one text with commas; empty where there is none."""
        if not self.has(name):
            return []
        value = self.values[name]
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list):
            raise self.wrong(name, "a list of texts")
        return [str(part).strip() for part in parts if str(part).strip()]

    def wrong(self, name: str, wanted: str) -> InputError:
        """The error for a key whose value is of another kind."""
        return InputError(
            f"A value of the {self.tool} configuration cannot be read.",
            found=f"{name}: {self.values[name]!r}",
            where=self.where,
            fix=f"Give {wanted}.",
        )

    def refused(self, name: str, what: str, fix: str) -> InputError:
        """The error for a key that would train something else than a run file can say."""
        return InputError(what, found=f"{name}: {self.values.get(name)!r}", where=self.where, fix=fix)


def read_configuration(tool: str, file: Path) -> Given:
    """The keys of a YAML or JSON file. Raises `InputError` where there is none, or it is no mapping of keys."""
    import yaml

    try:
        if file.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it has over {LARGEST_FILE:,} bytes")
        values = yaml.safe_load(file.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"The {tool} configuration cannot be read.",
            found=str(error)[:300] or type(error).__name__,
            where=str(file),
            fix="Give a YAML or JSON file.",
        ) from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(
            f"The {tool} configuration is not a mapping of keys to values.",
            found=f"a {type(values).__name__}",
            where=str(file),
            fix="Give the YAML or JSON file that the tool itself reads.",
        )
    return Given(tool, str(file), values)


def translation(
    given: Given, keys: Mapping[str, Key], lines: Sequence[Line], reasons: Mapping[str, tuple[Verdict, str]]
) -> Translation:
    """The lines, and a remark for each key that none of them comes from.

    `reasons`: verdicts that depend on other keys. A key that is not supported and asks for nothing is not needed.
    """
    used = {name for line in lines for name in line.sources}
    remarks, unknown = [], []
    for name, value in given.values.items():
        if name in used:
            continue
        if name in reasons:
            remarks.append(Remark(name, value, *reasons[name]))
        elif name not in keys:
            unknown.append(f"{name}{did_you_mean(name, list(keys))}")
        elif keys[name].verdict == "not supported" and value not in OFF:
            remarks.append(Remark(name, value, "not supported", keys[name].why))
        elif keys[name].verdict == "not needed":
            remarks.append(Remark(name, value, "not needed", keys[name].why))
        else:
            why = f"{given.tool} does nothing with it, as it and the other keys are set"
            remarks.append(Remark(name, value, "not needed", why))
    return Translation(given.tool, tuple(lines), tuple(remarks), tuple(unknown))
