"""Pairs as the audit page shows them: the texts of both sides, escaped, with their differences marked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from scoreonce.pipeline.pages.diff import compare, excerpts, passage
from scoreonce.pipeline.pages.marked_text import markup
from scoreonce.pipeline.pages.numbers import number
from scoreonce.pipeline.pages.text import visible

# Characters of a prompt's end in the table of the worst pairs, and of that unfolded.
OPENING = 140
PROMPT = 560


@dataclass(frozen=True)
class Texts:
    """A prepared pair's texts; None for a side that the row does not have."""

    pair_id: str
    split: str
    row: int
    prompt: str
    chosen: str | None
    rejected: str | None


@dataclass(frozen=True)
class ShownPair:
    """The texts of a pair as markup, `prompt` None where it is shown elsewhere; `marked` unless too much differs."""

    prompt: Markup | None
    chosen: Markup | None
    rejected: Markup | None
    marked: bool = True


def comparison(texts: Texts) -> ShownPair:
    """A pair with the words that only one side has marked, and long common stretches folded."""
    prompt = markup(passage(texts.prompt.lstrip("\n")))
    if texts.chosen is None or texts.rejected is None:
        chosen, rejected = (None if side is None else markup(passage(side)) for side in (texts.chosen, texts.rejected))
        return ShownPair(prompt, chosen, rejected)
    found = compare(texts.chosen, texts.rejected)
    return ShownPair(prompt, markup(found.left), markup(found.right), found.marked)


def examples(entries: Iterable[Mapping[str, Any]], texts: Mapping[str, Texts]) -> list[Mapping[str, Any]]:
    """A finding's examples with their texts, and those of the pair that each resembles, where these are known."""
    return [
        _example(entry, texts.get(entry["pair_id"]), texts.get(entry.get("other_pair_id") or "")) for entry in entries
    ]


def _example(entry: Mapping[str, Any], texts: Texts | None, other: Texts | None) -> Mapping[str, Any]:
    return {
        **entry,
        "note": visible(entry.get("note") or ""),
        "pair": comparison(texts) if texts else None,
        "other": _resembling(other, texts) if other else None,
        "other_origin": f"{other.split} row {number(other.row)}" if other else "",
    }


def _resembling(other: Texts, texts: Texts | None) -> ShownPair:
    """Another pair, with the words of its prompt marked that the first pair's prompt lacks."""
    pair = comparison(other)
    if texts is None or texts.prompt == other.prompt:
        return pair
    return ShownPair(markup(compare(texts.prompt, other.prompt).right), pair.chosen, pair.rejected, pair.marked)


def worst_pairs(entries: Iterable[Mapping[str, Any]], texts: Mapping[str, Texts]) -> list[Mapping[str, Any]]:
    """The rows of the table: each with the end of its prompt, and excerpts of its sides from where they differ."""
    return [_worst(entry, texts.get(entry["pair_id"])) for entry in entries]


def _worst(entry: Mapping[str, Any], texts: Texts | None) -> Mapping[str, Any]:
    if texts is None:
        return {**entry, "pair": None}
    prompt = " ".join(texts.prompt[-PROMPT:].split())
    is_short = len(prompt) <= OPENING and len(texts.prompt) <= PROMPT
    opening = prompt if is_short else f"… {prompt[-OPENING:].partition(' ')[2]}"
    chosen, rejected = excerpts(texts.chosen or "", texts.rejected or "")
    pair = ShownPair(
        None if is_short else visible(texts.prompt[-PROMPT:]),
        None if texts.chosen is None else visible(chosen),
        None if texts.rejected is None else visible(rejected),
    )
    return {**entry, "pair": pair, "opening": visible(opening)}
