"""Sampled completions in the formats of AlpacaEval and Arena-Hard, for their own judges.

AlpacaEval reads a JSON list of {"instruction", "output", "generator", "dataset"}. Arena-Hard (v0.1 of its repository)
reads JSON lines of {"question_id", "answer_id", "model_id", "choices": [{"index", "turns": [{"content"}]}], "tstamp"}.
Both are of prompts of one user turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]  # of `schemas.tables.Sample`


def instruction_of(row: Row) -> str | None:
    """The prompt as one instruction; None for a conversation that is more than one user message."""
    if row["conversation"] is None:
        return str(row["prompt"])
    messages = json.loads(row["conversation"])
    alone = len(messages) == 1 and messages[0].get("role") == "user" and isinstance(messages[0].get("content"), str)
    return messages[0]["content"] if alone else None


def alpaca_eval(rows: Iterable[Row], generator: str, dataset: str) -> list[dict[str, str]]:
    """The first sample of each prompt that is one instruction, as AlpacaEval's `model_outputs` has it."""
    return [
        {"instruction": instruction, "output": row["completion"], "generator": generator, "dataset": dataset}
        for row, instruction in _first(rows)
    ]


def arena_hard(rows: Iterable[Row], model: str, questions: Mapping[str, str], at: float) -> list[dict[str, Any]]:
    """The first sample of each prompt that is one of the questions, as Arena-Hard's `model_answer` has it.

    `questions`: the question_id of each prompt; `at`: seconds since the epoch.
    """
    return [
        {
            "question_id": questions[instruction],
            "answer_id": row["completion_id"],
            "model_id": model,
            "choices": [{"index": 0, "turns": [{"content": row["completion"]}]}],
            "tstamp": at,
        }
        for row, instruction in _first(rows)
        if instruction in questions
    ]


def _first(rows: Iterable[Row]) -> Iterable[tuple[Row, str]]:
    for row in rows:
        instruction = instruction_of(row) if row["sample"] == 0 else None
        if instruction is not None:
            yield row, instruction
