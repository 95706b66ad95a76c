"""What judges are asked: a completion of a prompt, or two of the same prompt."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from scoreonce.pipeline.judging.verdicts import prompt_text

Settings = dict[str, Any]
NO_VERDICT = "no one verdict"  # the judge answered, and would say the same again


@dataclass(frozen=True)
class Completion:
    """A completion, with its prompt as text, and as messages where it is a conversation."""

    prompt: str
    conversation: str | None  # the JSON of its messages
    text: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Completion:
        """That of a row of `schemas.tables.Sample`."""
        return cls(row["prompt"], row["conversation"], row["completion"])

    @property
    def messages(self) -> list[dict[str, Any]] | None:
        """The messages of the prompt, None where it is plain text."""
        return None if self.conversation is None else json.loads(self.conversation)

    @property
    def prompt_text(self) -> str:
        """The prompt as it is shown to a reader."""
        return prompt_text(self.prompt, self.conversation)


@dataclass(frozen=True)
class Match:
    """Two completions of one prompt, in the order in which they are shown."""

    first: Completion
    second: Completion


class ScoringJudge(Protocol):
    """A judge that gives each completion a score by itself."""

    kind: Literal["scores"]

    def settings(self) -> Settings:
        """What decides its answers."""
        ...

    def scores(self, completions: Sequence[Completion]) -> list[float | None]:
        """The score of each, None where it gives none."""
        ...


class ComparingJudge(Protocol):
    """A judge that compares two completions, which it sees in an order.

    `failures` counts the questions without an answer, by reason.
    """

    kind: Literal["preferences"]
    failures: Counter[str]

    def settings(self) -> Settings:
        """What decides its answers."""
        ...

    def preferences(self, matches: Sequence[Match]) -> list[float | None]:
        """Of each 1 where the first is better, 0 where the second is, 0.5 for a tie; None where it gives no answer."""
        ...
