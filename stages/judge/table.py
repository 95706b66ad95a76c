"""The tables of a judgement: a score per sample, and an answer per comparison of two labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl

from scoreonce.pipeline.judging.summary import preference
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import Judgement, SampleScore
from scoreonce.stages.judge.questions import Completion, Match

_KEYS = ["prompt_id", "sample"]
_SHOWN = ["completion_id", "completion", "prompt", "conversation"]


def completions(samples: pl.DataFrame) -> list[Completion]:
    """The completions of rows of `schemas.tables.Sample`."""
    return [Completion.of(row) for row in samples.select("prompt", "conversation", "completion").iter_rows(named=True)]


def side_by_side(samples: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Each sample with the other label's of the same prompt and number, whose columns begin with "other_".

    Raises `InputError` where there is none.
    """
    other = others.select(*_KEYS, pl.col("completion_id", "completion").name.prefix("other_"))
    found = samples.select(*_KEYS, *_SHOWN).join(other, on=_KEYS, maintain_order="left")
    if not found.height:
        raise InputError(
            "The two labels have no sample in common.",
            found=f"{samples['prompt_id'].n_unique():,} and {others['prompt_id'].n_unique():,} prompts, none the same",
            where="--label and --against",
            fix="Sample both for the same prompts, with the same tokenizer and chat template.",
        )
    return found


def matches(together: pl.DataFrame) -> tuple[list[Match], list[Match]]:
    """The two completions of each row in both orders: the sample's first, and the other's first."""
    pairs = [
        (Completion(prompt, chat, own), Completion(prompt, chat, other))
        for prompt, chat, own, other in together.select(
            "prompt", "conversation", "completion", "other_completion"
        ).iter_rows()
    ]
    return [Match(own, other) for own, other in pairs], [Match(other, own) for own, other in pairs]


def score_table(scores: Mapping[str, tuple[pl.DataFrame, list[float | None]]]) -> pl.DataFrame:
    """Rows of `SampleScore` of the samples and scores of each label."""
    parts = [
        samples.select(*_KEYS, "completion_id").with_columns(
            pl.lit(label).alias("label"), pl.Series("score", given, pl.Float64)
        )
        for label, (samples, given) in scores.items()
    ]
    return SampleScore.validate(pl.concat(parts).select(SampleScore.column_names()))


def compared_by_answers(
    together: pl.DataFrame, first: Iterable[float | None], second: Iterable[float | None]
) -> pl.DataFrame:
    """Rows of `Judgement`: `first` and `second` are the answers with the sample first and second, both about it.

    Of two completions that are the same text there is no answer: they tie.
    """
    answers = {"preference_first": first, "preference_second": second}
    table = together.with_columns(*(pl.Series(name, list(found), pl.Float64) for name, found in answers.items()))
    same = pl.col("completion") == pl.col("other_completion")
    return _judgements(table.with_columns(pl.when(same).then(0.5).otherwise(preference()).alias("preference")))


def compared_by_scores(together: pl.DataFrame, scores: pl.DataFrame, label: str, against: str) -> pl.DataFrame:
    """Rows of `Judgement` made of scores: the higher one wins, equal ones tie."""
    sides = [
        scores.filter(pl.col("label") == each).select(*_KEYS, pl.col("score").alias(name))
        for each, name in ((label, "own"), (against, "other"))
    ]
    table = together
    for side in sides:
        table = table.join(side, on=_KEYS, maintain_order="left")
    wins = (pl.col("own") > pl.col("other")).cast(pl.Float64) + (pl.col("own") == pl.col("other")).cast(pl.Float64) / 2
    none = pl.lit(None, pl.Float64)
    return _judgements(
        table.with_columns(wins.alias("preference"), none.alias("preference_first"), none.alias("preference_second"))
    )


def _judgements(table: pl.DataFrame) -> pl.DataFrame:
    lengths = [
        pl.col(text).str.len_chars().cast(pl.Int32).alias(name)
        for text, name in (("completion", "completion_chars"), ("other_completion", "other_chars"))
    ]
    named = table.rename({"other_completion_id": "other_id"}).with_columns(*lengths)
    return Judgement.validate(named.select(Judgement.column_names()))
