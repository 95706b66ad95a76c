"""Single turns and conversations as ShareGPT writes them: `from` and `value` in place of role and content."""

from __future__ import annotations

from typing import Any

from scoreonce.pipeline.detection.finding import Finding
from scoreonce.pipeline.text.dataset_columns import Made, Row, json_value

TEXTS = ("prompt", "chosen", "rejected", "completion", "messages", "response_1", "response_2")
ROLES = {"human": "user", "gpt": "assistant"}


def wrap_turns(finding: Finding) -> None:
    """Read a single turn as a list of one, and ShareGPT's keys as role and content."""
    for role in TEXTS:
        if finding.has(role) and any(_to_wrap(value) for value in finding.values(role)):
            finding.make(role, finding.names[role], _wrapped(finding.maker(role)))


def _to_wrap(value: Any) -> bool:
    value = json_value(value)
    return isinstance(value, dict) or (isinstance(value, list) and any(_is_sharegpt(turn) for turn in value))


def _is_sharegpt(turn: Any) -> bool:
    return isinstance(turn, dict) and "from" in turn and "value" in turn


def _wrapped(made: Made) -> Made:
    def value(row: Row) -> Any:
        found = made.value(row)
        turns = json_value(found)
        if isinstance(turns, dict):
            turns = [turns]
        if not isinstance(turns, list) or not any(isinstance(turn, dict) for turn in turns):
            return found
        return [_turn(turn) if _is_sharegpt(turn) else turn for turn in turns]

    return Made(made.reads, value)


def _turn(turn: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    return {"role": ROLES.get(turn["from"], turn["from"]), "content": turn["value"], **rest}
