"""Label noise estimated from repeated judgements of the same pairs, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scoreonce.pipeline.pages.numbers import number, percent


def judgement_sentences(found: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Disagreement, flip rate with its formula, and a suggested setting; empty where nothing was judged repeatedly."""
    if not found:
        return ()
    kind = "votes" if found["kind"] == "votes" else "rows with the same two completions"
    return (
        f"{number(found['pairs'])} pairs were judged more than once, {number(found['judgements'])} times in total "
        f"({kind}), {_unanimity(found['dissent'])}.",
        f"Two judgements of a pair disagree with probability d = {_interval(found, 'disagreement')}. If judgements "
        f"are wrong independently and equally often, each is wrong with probability ε = (1 − √(1 − 2d)) / 2 = "
        f"{_interval(found, 'flip_rate')}. Judges who share a bias agree without being right; "
        "then ε is too low.",
        f"Suggested label_smoothing: {number(found['suggested_label_smoothing'], 2)}. It is never applied "
        "automatically.",
    )


def _unanimity(dissent: int) -> str:
    return f"{number(dissent)} of them with disagreement" if dissent else "all of them unanimously"


def _interval(found: Mapping[str, Any], name: str) -> str:
    return f"{percent(found[name])} ({percent(found[f'{name}_low'])} to {percent(found[f'{name}_high'])})"
