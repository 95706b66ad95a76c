"""The format of a dataset and the column of each role, from names, first rows and what the run file says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scoreonce.pipeline.detection.completions import find_completion
from scoreonce.pipeline.detection.finding import Finding
from scoreonce.pipeline.detection.prompts import find_prompt
from scoreonce.pipeline.detection.responses import find_list, find_two_responses, read_turns
from scoreonce.pipeline.text.dataset_columns import Columns, Made, Row
from scoreonce.pipeline.text.formats import CONVERSATIONAL, detect, require_columns
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.pipeline.text.rows_to_pairs import with_messages
from scoreonce.pipeline.text.transcripts import shares_a_turn
from scoreonce.schemas.errors import InputError

NUMBERS = ("chosen_score", "rejected_score", "chosen_preference", "rejected_preference")
MEDIA = ("images", "image", "videos", "video", "audio", "audios", "pixel_values")


@dataclass(frozen=True)
class Recognised:
    """How to read a dataset. `notes`: decisions to log.

    `turns_only`: of the format `implicit`, a row whose common beginning ends at no turn is refused.
    """

    format: str
    columns: Columns
    turns_only: bool = False
    notes: tuple[str, ...] = ()


def recognise(
    found: list[str],
    sample: Sequence[Row],
    renamed: Mapping[str, str],
    *,
    format: str | None = None,
    coding: str | None = None,
    untyped: bool = False,
) -> Recognised:
    """Format and columns. `format` and `coding` (of the preference) None: find out. `untyped`: all values are text.

    Raises `InputError` where they cannot be told for certain, and for rows that have images, audio or video.
    """
    finding = Finding.of(found, sample, dict(renamed))
    _require_text_only(finding)
    if finding.has("chosen", "rejected"):
        finding.leave_out("messages")  # the conversation of the chosen side once more
    if format in ("labelled", "graded", "completion", "unpaired"):
        finding.leave_out("chosen", "rejected")
    if format in (None, "graded"):
        find_list(finding)
    if format in (None, "labelled"):
        find_two_responses(finding, coding)
    if format in (None, "completion", "unpaired"):
        find_completion(finding, format)
    # A format that is given is believed: texts that hold their prompt need no column for it.
    if format != "implicit":
        find_prompt(finding)
    if untyped:
        _read_numbers(finding)
    read_turns(finding)
    _leave_out_empty(finding)
    columns = replace(finding.columns, media=tuple(column for column in MEDIA if column in found))
    name = format or detect(columns, found, [with_messages(row, columns) for row in sample])
    require_columns(name, columns, found)
    _say_what_is_not_used(finding, columns)
    guessed = format is None and name == "implicit"
    if guessed:
        _require_turns(columns, sample)
    return Recognised(name, columns, guessed, tuple(finding.notes))


def _require_text_only(finding: Finding) -> None:
    for column in MEDIA:
        if any(value not in ([], {}) for value in finding.column(column)):
            raise InputError(
                f"The data have {column}, and only text is read.",
                found=f"a column {column!r} that is not empty",
                where="data.source",
                fix=f"Use data of text alone. Rows without {column} can be kept; the column must then be empty.",
            )


def _leave_out_empty(finding: Finding) -> None:
    """Use no column of tools or system turns that says nothing: it would need a chat template."""
    empty = [role for role in CONVERSATIONAL if finding.has(role) and not any(finding.values(role))]
    if empty:
        names = ", ".join(finding.names[role] for role in empty)
        finding.notes.append(f"{names} of the data: empty in the first {len(finding.sample):,} rows, and not read")
    finding.leave_out(*empty)


def _read_numbers(finding: Finding) -> None:
    """Of a table whose values are all text, read those as numbers that have to be; others are refused row by row."""
    for role in NUMBERS:
        if finding.has(role):
            finding.make(role, finding.names[role], _number(finding.maker(role)))


def _number(made: Made) -> Made:
    def value(row: Row) -> Any:
        text = made.value(row)
        try:
            return float(text) if isinstance(text, str) else text
        except ValueError:
            return text

    return Made(made.reads, value)


def _say_what_is_not_used(finding: Finding, columns: Columns) -> None:
    unused = [name for name in finding.found if name not in columns.read]
    if unused:
        finding.notes.append(f"not used: {', '.join(unused)}")


def _require_turns(columns: Columns, sample: Sequence[Row]) -> None:
    """Raise `InputError` unless most of the first rows share a beginning that ends at an assistant's turn."""
    texts = [pair for row in sample if (pair := _two_texts(columns, row)) is not None]
    turns = sum(shares_a_turn(*pair) for pair in texts)
    if 2 * turns >= len(texts):
        return
    chosen, rejected = next(pair for pair in texts if not shares_a_turn(*pair))
    raise InputError(
        "The dataset has no prompt.",
        found=f"no column for it, and texts that share no beginning up to an assistant's turn: {chosen[:60]!r} and "
        f"{rejected[:60]!r}",
        where="data.source",
        fix='Name the column of the prompt: data.columns = { prompt = "…" }. If the prompt is what both texts begin '
        'with, set data.format = "implicit".',
    )


def _two_texts(columns: Columns, row: Row) -> tuple[str, str] | None:
    try:
        chosen, rejected = columns.value(row, "chosen"), columns.value(row, "rejected")
    except RowError:
        return None
    return (chosen, rejected) if isinstance(chosen, str) and isinstance(rejected, str) and chosen != rejected else None
