"""Flaws that are planted in training pairs of the world, each with the finding of the audit that is to remove it.

A plant makes rows of a data set from true pairs; `planted` says of each whether it is one too many or wrong. What is
dropped is the audit's finding and nothing else: the audit does not read `planted`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SHARE = 0.25  # of the pairs, for all but repetitions
REPEATED, TIMES = 0.05, 5
JUDGE_ERROR = 1.0  # deviation of the judge's score of a text from its reward, in points
FILLER = "On Tuesday we saw it, on Friday we saw it."  # the reward has no opinion on any of its words
SHORT = 41  # tokens of prompt and completion: a side of one pair in seven is longer
GAP = 10  # tokens; the filler makes 15, and one pair in twenty has as many by itself
SCORES = {"data.columns": {side: side for side in ("chosen_score", "rejected_score")}}
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Plant:
    """A flaw, settings of the data that it needs, and settings of [train] that clean it."""

    title: str
    finding: str
    rows: Callable[[Rows, random.Random], Rows]
    cleaning: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)


def clean(rows: Rows, draw: random.Random) -> Rows:
    """The true pairs, without scores."""
    return [_row(row) for row in rows]


def flipped(rows: Rows, draw: random.Random) -> Rows:
    """A share of the pairs with exchanged sides, and the scores of a judge who errs, but is asked independently."""
    made = []
    for row in rows:
        scores = {side: row[f"{side}_score"] + draw.gauss(0, JUDGE_ERROR) for side in ("chosen", "rejected")}
        flip = draw.random() < SHARE
        first, second = ("rejected", "chosen") if flip else ("chosen", "rejected")
        made.append(
            _row(row, row[first], row[second], planted=flip)
            | {"chosen_score": scores[first], "rejected_score": scores[second]}
        )
    return made


def contradicted(rows: Rows, draw: random.Random) -> Rows:
    """The pairs, and a share of them once more with the other side preferred."""
    again = draw.sample(rows, round(SHARE * len(rows)))
    return clean(rows, draw) + [_row(row, row["rejected"], row["chosen"], planted=True) for row in again]


def repeated(rows: Rows, draw: random.Random) -> Rows:
    """The pairs, a few of which occur five times."""
    again = draw.sample(rows, round(REPEATED * len(rows)))
    return clean(rows, draw) + [_row(row, planted=True) for row in again for _ in range(TIMES - 1)]


def padded(rows: Rows, draw: random.Random) -> Rows:
    """The pairs, the chosen side of a share of them with a sentence that says nothing."""
    longer = [draw.random() < SHARE for _ in rows]
    return [
        _row(row, _with_filler(row["chosen"]), planted=True) if long else _row(row)
        for row, long in zip(rows, longer, strict=True)
    ]


def first_chosen(rows: Rows, draw: random.Random) -> Rows:
    """The pairs as two responses in a drawn order; of a share of them the first is preferred whatever it is worth."""
    made = []
    for row in rows:
        second, biased = draw.random() < 0.5, draw.random() < SHARE
        sides = ("rejected", "chosen") if second else ("chosen", "rejected")
        made.append(
            {"prompt": row["prompt"], "response_1": row[sides[0]], "response_2": row[sides[1]]}
            | {"preference": int(second and not biased), "planted": second and biased}
        )
    return made


def _with_filler(text: str) -> str:
    """The text with the filler behind its sentences, before the greeting at the end."""
    before, newline, end = text.rpartition("\n")
    return f"{before} {FILLER}\n{end}" if newline else f"{text} {FILLER}"


def _row(row: dict[str, Any], chosen: str = "", rejected: str = "", *, planted: bool = False) -> dict[str, Any]:
    return {
        "prompt": row["prompt"],
        "chosen": chosen or row["chosen"],
        "rejected": rejected or row["rejected"],
        "planted": planted,
    }


PLANTS = {
    "contradictions": Plant(
        f"{SHARE:.0%} of the pairs once more, reversed",
        "contradictory_pair",
        contradicted,
        {"train.drop": ["contradictory_pair"]},
    ),
    "repetitions": Plant(
        f"{REPEATED:.0%} of the pairs {TIMES} times",
        "duplicate_pair",
        repeated,
        {"train.drop": ["duplicate_pair"]},
    ),
    "flips": Plant(
        f"{SHARE:.0%} of the labels flipped, a noisy judge's scores at hand",
        "scores_prefer_rejected",
        flipped,
        {"train.drop": ["scores_prefer_rejected"]},
        SCORES,
    ),
    "truncation": Plant(
        f"pairs cut at {SHORT} tokens",
        "chosen_truncated, one_side_truncated",
        clean,
        {"train.drop": ["chosen_truncated", "one_side_truncated"]},
        {"data.max_length": SHORT},
    ),
    "length": Plant(
        f"a filler sentence on {SHARE:.0%} of the chosen sides",
        f"none; where = chosen_len - rejected_len < {GAP}",
        padded,
        {"train.where": f"chosen_len - rejected_len < {GAP}"},
    ),
    "position": Plant(
        f"the first of two responses preferred in {SHARE:.0%} of the pairs, whatever it is worth",
        "none; where = chosen_position = 2",
        first_chosen,
        {"train.where": "chosen_position = 2"},
    ),
}
