"""What the terminal says of a judgement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scoreonce.pipeline.pages.numbers import percent, signed
from scoreonce.pipeline.pages.ranking import named
from scoreonce.schemas.manifests import JudgementManifest


def lines(manifest: JudgementManifest, folder: Path) -> Iterator[str]:
    """The figures as a paragraph."""
    figures: Mapping[str, Any] = manifest.figures
    by = manifest.judge.get("model") or manifest.judge.get("function")
    against = f" against {named(manifest.against)}" if manifest.against else ""
    yield f"{manifest.name}: {manifest.label}{against}, judged by {by}"
    scores = figures["scores"] or []
    width = max((len(row["label"]) for row in scores), default=0)
    for row in scores:
        missing = f", {row['unscored']:,} without a score" if row["unscored"] else ""
        interval = "" if row["score"] is None else f"  ({signed(row['score_low'])} to {signed(row['score_high'])})"
        mean = "none" if row["score"] is None else signed(row["score"])
        over = f"over the prompts of {row['samples']:,} samples{missing}"
        yield f"  score of {row['label']:<{width}}  {mean}{interval}, {over}"
    if alone := {label: count for label, count in figures.get("unmatched", {}).items() if count}:
        counts = ", ".join(f"{count:,} of {label}" for label, count in alone.items())
        yield f"  not compared, because the other label has no sample of that prompt and number: {counts}"
    if figures["comparison"] is not None:
        yield from _comparison(figures["comparison"])
    if figures["failures"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(figures["failures"].items()))
        yield f"  questions without an answer: {reasons}; the same command asks the server's failures again"
    yield f"  results in {folder}"


def _comparison(figures: Mapping[str, Any]) -> Iterator[str]:
    answered = figures["comparisons"] - figures["unanswered"]
    yield (
        f"  {'win rate':<22}{_rate(figures['win_rate'])}  of {answered:,} comparisons, {figures['prompts']:,} prompts: "
        f"{figures['wins']:,} won, {figures['losses']:,} lost, {figures['ties']:,} tied"
    )
    if figures["unanswered"]:
        yield f"  {'left out':<22}{figures['unanswered']:,} comparisons without an answer in each order"
    level = figures["length_controlled_win_rate"]
    if level is not None:
        shown = {"rate": level["win_rate"], "low": level["low"], "high": level["high"]}
        yield (
            f"  {'length-controlled':<22}{_rate(shown)}  completions have {figures['completion_chars']:,.0f} characters"
            f", the others {figures['other_chars']:,.0f}"
        )
    position = figures["position"]
    if position is not None:
        first = position["first_wins"]
        sure = first["low"] > 0.5 or first["high"] < 0.5
        side = "first" if first["rate"] > 0.5 else "second"
        said = f"the judge prefers what it sees {side}" if sure else "no preference for a position is seen"
        yield f"  {'first shown wins':<22}{_rate(first)}  {said}"
        yield f"  {'changed with order':<22}{_rate(position['changed'])}  of answers"


def _rate(rate: Mapping[str, float] | None) -> str:
    if rate is None:
        return percent(None)
    return f"{percent(rate['rate']):>6}  ({percent(rate['low'])} to {percent(rate['high'])})"
