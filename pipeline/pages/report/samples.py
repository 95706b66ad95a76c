"""Samples in the report: figures of each model's, and the same prompts answered side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from markupsafe import Markup

from scoreonce.pipeline.pages.diff import Block, Comparison, Fragment, Side, compare, passage
from scoreonce.pipeline.pages.marked_text import Tag, markup
from scoreonce.pipeline.samples.figures import SampleFigures, figures, repetition
from scoreonce.schemas.samples import REFERENCE, WHOLE

PROMPTS = 8  # that are shown


@dataclass(frozen=True)
class SampleRecord:
    """The samples of one label, rows of `Sample` of which there is at least one, and the fields of their manifest."""

    label: str
    samples: pl.DataFrame
    manifest: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleStanding:
    """A row of the table. `whole`: the samples are of the model's whole distribution, so that they estimate KL."""

    label: str
    figures: SampleFigures
    realigned: float | None
    whole: bool
    settings: str
    is_reference: bool


@dataclass(frozen=True)
class Answer:
    """One completion as markup. `marked`: words that the reference's lacks are; else there is too much that differs."""

    label: str
    text: Markup
    length: int
    finished: bool
    logratio: float | None
    repetition: float
    marked: bool
    same: bool = False  # as the reference's


@dataclass(frozen=True)
class Answered:
    """A prompt and what each model wrote, the reference first."""

    prompt: Markup
    opening: str
    answers: list[Answer]


def standings(records: Sequence[SampleRecord]) -> list[SampleStanding]:
    """The figures of each label, in order."""
    return [
        SampleStanding(
            record.label,
            figures(record.samples),
            record.manifest.get("realigned"),
            bool(record.manifest.get("whole_distribution", True)),
            _settings(record.manifest),
            record.label == REFERENCE,
        )
        for record in records
    ]


def side_by_side(records: Sequence[SampleRecord], most: int = PROMPTS) -> list[Answered]:
    """The first completions of the first prompts that all labels, or as many as possible, have answered."""
    first = {record.label: _first(record.samples) for record in records}
    prompts = list(dict.fromkeys(prompt for rows in first.values() for prompt in rows))
    order = sorted(prompts, key=lambda prompt: -sum(prompt in rows for rows in first.values()))[:most]
    return [_answered({label: rows[prompt] for label, rows in first.items() if prompt in rows}) for prompt in order]


def _first(samples: pl.DataFrame) -> dict[str, dict[str, Any]]:
    rows = samples.unique("prompt_id", keep="first", maintain_order=True).head(4 * PROMPTS)
    whole = rows.with_columns(repetition(rows["completion_ids"]))
    return {row["prompt_id"]: row for row in whole.iter_rows(named=True)}


def _answered(rows: Mapping[str, dict[str, Any]]) -> Answered:
    prompt: str = next(iter(rows.values()))["prompt"]
    reference = rows.get(REFERENCE)
    others = {label: row for label, row in rows.items() if label != REFERENCE}
    found = (
        {label: compare(reference["completion"], row["completion"]) for label, row in others.items()}
        if reference
        else {}
    )
    answers = []
    if reference is not None:
        # With one policy, what it does not say is marked; with several each differs elsewhere.
        only = next(iter(found.values())) if len(found) == 1 else None
        answers.append(_answer(REFERENCE, reference, only.left if only else None, "del", only))
    for label, row in others.items():
        comparison = found.get(label)
        answers.append(_answer(label, row, comparison.right if comparison else None, "ins", comparison))
    return Answered(markup(passage(prompt.strip("\n"))), _opening(prompt), answers)


def _answer(label: str, row: Mapping[str, Any], side: Side | None, tag: Tag, found: Comparison | None) -> Answer:
    reference, sampler = row["ref_logps"], row["sampler_logps"]
    whole = side or _plain(row["completion"])
    return Answer(
        label,
        markup(whole, tag),
        row["completion_len"],
        row["finished"],
        None if reference is None or label == REFERENCE else sampler - reference,
        row["repetition"],
        found.marked if found else True,
        tag == "ins"
        and found is not None
        and not any(piece.changed for block in whole.blocks for piece in block.pieces)
        and found.marked,
    )


def _plain(text: str) -> Side:
    return compare(text, text).right if text else Side((Block((Fragment(""),)),))


def _opening(prompt: str, most: int = 120) -> str:
    """The end of a prompt, where its question stands, in one line."""
    line = " ".join(prompt.split())
    return line if len(line) <= most else f"… {line[-most:]}"


def _settings(manifest: Mapping[str, Any]) -> str:
    """Settings that are not the neutral ones, as text: "temperature 0.7, top_p 0.9"."""
    given = dict(manifest.get("generation", {}))
    if given.get("do_sample") is False:
        return "most likely token each time"
    shown = {name: value for name, value in given.items() if WHOLE.get(name) != value and name != "max_new_tokens"}
    return ", ".join(f"{name} {value}" for name, value in sorted(shown.items()))
