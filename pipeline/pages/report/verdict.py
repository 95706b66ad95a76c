"""The headline of the report: which run did best on held-out pairs, how certain that is, and the table behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scoreonce.pipeline.evaluation.summary import paired_difference
from scoreonce.pipeline.pages.numbers import fixed, is_number, number, percent, points
from scoreonce.pipeline.pages.report.data import ReportData, RunRecord, best_first


@dataclass(frozen=True)
class Standing:
    """One row of the table: a run, how far it is behind the best on the same pairs, and its true reward if known."""

    run: RunRecord
    behind: Mapping[str, Any] | None
    reward: Mapping[str, Any] | None


@dataclass(frozen=True)
class Verdict:
    """A headline, sentences under it, and the standings."""

    headline: str
    sentences: tuple[str, ...]
    standings: tuple[Standing, ...]


def verdict(data: ReportData) -> Verdict:
    """Headline and standings. `behind` is None for the best run and for runs without held-out pairs."""
    order = best_first(data.runs)
    best = next((run for run in order if run.evaluated), None)
    rewards = {entry["label"]: entry for entry in data.demo}
    standings = tuple(Standing(run, _behind(run, best), rewards.get(run.label)) for run in order)
    headline, sentences = _none_evaluated(data.runs) if best is None else _ranked(best, standings)
    return Verdict(headline, (*sentences, *_doubted(best), *_true_reward(data.demo)), standings)


def _none_evaluated(runs: Sequence[RunRecord]) -> tuple[str, list[str]]:
    count = len(runs)
    trained = f"{count} run{'s' if count > 1 else ''} trained"
    if any(run.summary for run in runs):
        return f"{trained}, no held-out pairs to rank", ["Accuracy needs held-out pairs with a rejected side."]
    return f"{trained}, not evaluated yet", ["There are no held-out results yet: run scoreonce evaluate."]


def _ranked(best: RunRecord, standings: Sequence[Standing]) -> tuple[str, list[str]]:
    summary = best.summary
    share = percent(summary["accuracy"])
    interval = f"95% interval {percent(summary['accuracy_low'])} to {percent(summary['accuracy_high'])}"
    level = [item.run.label for item in standings if item.behind and not _is_behind(item.behind)]
    pairs = f"{number(summary['pairs'])} held-out pairs"
    opening = f"{best.label} ranks {share} of {pairs} as labelled ({interval})."
    if summary["accuracy_low"] <= 0.5:
        return "No run is clearly better than chance", [opening]
    if not any(item.behind for item in standings):
        return f"{best.label} ranks {share} of held-out pairs correctly", [opening]
    if level:
        equal = any(item.behind and item.behind["difference"] == 0 for item in standings)
        rivals = _list(level) if len(level) <= 4 else f"{len(level)} others"
        return "No run is clearly best" if equal else f"{best.label} is ahead, but not clearly", [
            opening,
            f"On the same pairs, {rivals} cannot be distinguished from it (paired 95% interval).",
        ]
    return f"{best.label} ranks held-out pairs best", [
        opening,
        "Every other run is worse on the same pairs (paired 95% interval).",
    ]


def _doubted(best: RunRecord | None) -> list[str]:
    """What became of the run that ranks best, where its verdict says more than that it learnt."""
    if best is None or best.verdict.get("severity", "none") == "none":
        return []
    return [f"Verdict on {best.label}: {best.verdict['headline']}."]


def _true_reward(demo: Sequence[Mapping[str, Any]]) -> list[str]:
    known = [entry for entry in demo if is_number(entry.get("true_reward_mean"))]
    if not known:
        return []
    top = max(known, key=lambda entry: entry["true_reward_mean"])
    base = next((entry for entry in known if entry["label"] == "reference"), None)
    sentence = (
        f"{top['label']} has the highest true reward: {fixed(top['true_reward_mean'])} "
        f"({fixed(top.get('true_reward_low'))} to {fixed(top.get('true_reward_high'))})"
    )
    if base is None or base is top:
        return [f"{sentence}."]
    return [f"{sentence}; the reference has {fixed(base['true_reward_mean'])}."]


def _is_behind(gap: Mapping[str, Any]) -> bool:
    return gap["high"] is not None and gap["high"] < 0


def _behind(run: RunRecord, best: RunRecord | None) -> Mapping[str, Any] | None:
    if best is None or run is best or run.pairs is None or best.pairs is None:
        return None
    gap = paired_difference(run.pairs, best.pairs)
    return gap if gap["difference"] is not None else None


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def behind_text(gap: Mapping[str, Any] | None) -> str:
    """`−1.2 (−3.0 to +0.6)` in percentage points, or an empty string."""
    return f"{points(gap['difference'])} ({points(gap['low'])} to {points(gap['high'])})" if gap else ""
