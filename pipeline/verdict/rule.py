"""A rule of the verdict, and what it gives where it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from scoreonce.pipeline.verdict.facts import Facts

Direction = Literal["raise", "lower", "set", "check"]
Number = float | int | bool | str | list[str] | None


class Seen(NamedTuple):
    """What was seen of a run, as a sentence, and its numbers. They also fill `{name}` in the rule's texts."""

    sentence: str
    numbers: Mapping[str, Number]


@dataclass(frozen=True)
class Advice:
    """What to do about one key of the run file, or about one thing outside of it."""

    key: str
    direction: Direction
    text: str  # an imperative without a full stop


@dataclass(frozen=True)
class Rule:
    """One row of the table: when it holds, from which threshold on, and where that comes from.

    Of the `leading` rules exactly one is a run's state; one that is `serious` puts the result in doubt. Others are
    added to the states that `beside` names.
    """

    name: str
    title: str  # what the run did, after its label and a colon
    holds: str  # in words
    threshold: float | None
    unit: str
    source: str
    seen: Callable[[Facts], Seen | None] = field(repr=False, compare=False)
    advice: tuple[Advice, ...] = ()
    leading: bool = False
    severity: Literal["serious", "notice", "none"] = "none"
    beside: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Finding:
    """A rule that holds of a run."""

    rule: Rule
    seen: str
    numbers: Mapping[str, Number]
    advice: tuple[Advice, ...]

    @property
    def name(self) -> str:
        """Of the rule."""
        return self.rule.name

    @property
    def title(self) -> str:
        """The rule's title with this run's numbers."""
        return self.rule.title.format_map(self.numbers)
