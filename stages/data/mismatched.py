"""KTO's mismatched completions: behind each prompt the chosen completion of another, fixed by the order of the pairs.

A pair's prompt meets the chosen completion of the next pair with another prompt, in the order of its split, the first
following on the last; copies of a pair share the first copy's. The completion is cut so that the two fit `max_length`.
Nothing is stored but its score: the token files say the rest, to `score` and to `train` alike.
"""

from __future__ import annotations

import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.identity import completion_id
from scoreonce.stages.common.files import read_json, read_parquet
from scoreonce.stages.common.paths import RunPaths, Split
from scoreonce.stages.data.token_file import TokenFile

_COLUMNS = ["pair_id", "prompt_id", "prompt_len", "chosen_len"]


def mismatched_completions(paths: RunPaths, split: Split) -> pl.DataFrame:
    """For each row of a split's token file: kl_id, kl_len, and donor, the row whose chosen completion is meant.

    Raises `InputError` where all pairs of the split have one prompt.
    """
    frame = pl.from_arrow(read_parquet(paths.pairs(split), _COLUMNS))
    assert isinstance(frame, pl.DataFrame)
    pairs = frame.with_row_index("pair")
    distinct = pairs.unique("pair_id", keep="first", maintain_order=True).with_columns(
        run=pl.col("prompt_id").rle_id()  # of neighbours with one prompt, which all meet the same completion
    )
    first = distinct.unique("run", keep="first", maintain_order=True)
    if first.height == 1:
        raise InputError(
            "Mismatched completions need pairs of different prompts.",
            found=f"one prompt in all {frame.height:,} pairs of {split}",
            where=str(paths.pairs(split)),
            fix="Set score.mismatched = false, or use data with more prompts.",
        )
    room = int(read_json(paths.pairs_manifest)["config"]["max_length"]) - pl.col("prompt_len")
    met = first.select(
        "run", "pair", donor=_following("pair", first), kl_len=pl.min_horizontal(_following("chosen_len", first), room)
    ).pipe(_identified, TokenFile(paths.tokens(split)))
    by_pair = distinct.join(met, on="run", how="left").select("pair_id", "kl_id", "kl_len", "donor")
    return pairs.select("pair_id").join(by_pair, on="pair_id", how="left", maintain_order="left").drop("pair_id")


def _following(column: str, first: pl.DataFrame) -> pl.Series:
    """A column of the run that follows, which for the last is the first one of another prompt."""
    values, prompts = first.get_column(column), first.get_column("prompt_id")
    after_last = values[:0] if first.is_empty() else values[:1] if prompts[0] != prompts[-1] else values[1:2]
    return pl.concat([values[1:], after_last])


def _identified(met: pl.DataFrame, tokens: TokenFile) -> pl.DataFrame:
    places = met.select("pair", "donor", "kl_len").iter_rows()
    ids = [
        completion_id(tokens.row(pair, "prompt_ids"), tokens.row(donor, "chosen_ids")[:length])
        for pair, donor, length in places
    ]
    return met.select("run", "donor", "kl_len", kl_id=pl.Series(ids, dtype=pl.String))
