"""KTO's mismatched completions: each prompt with a completion of another prompt.

In the order of the split, a pair's prompt is matched with the chosen completion of the next pair that has another
prompt, or in unpaired data with its only completion, good or bad; after the last pair comes the first. Copies of a pair
share the match of the first copy. The completion is cut so that both fit `max_length`. Only its score is stored:
`score` and `train` find its tokens in the token files.
"""

from __future__ import annotations

import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.identity import completion_id
from scoreonce.stages.common.files import read_json
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import RunPaths, Split
from scoreonce.stages.data.token_file import TokenFile

_COLUMNS = ["pair_id", "prompt_id", "prompt_len", "chosen_len", "rejected_len"]


def mismatched_completions(paths: RunPaths, split: Split) -> pl.DataFrame:
    """Per row of a split's token file: kl_id, kl_len, donor, the row whose completion it is matched with, and column.

    Lengths are in tokens. Raises `InputError` if all pairs of the split have the same prompt.
    """
    frame = read_frame(paths.pairs(split), _COLUMNS)
    pairs = frame.with_row_index("pair")
    distinct = pairs.unique("pair_id", keep="first", maintain_order=True).with_columns(
        run=pl.col("prompt_id").rle_id(),  # consecutive pairs with one prompt have the same match
        column=pl.when(pl.col("chosen_len") > 0).then(pl.lit("chosen_ids")).otherwise(pl.lit("rejected_ids")),
        length=pl.when(pl.col("chosen_len") > 0).then("chosen_len").otherwise("rejected_len"),
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
    matches = first.select(
        "run",
        "pair",
        donor=_following("pair", first),
        column=_following("column", first),
        kl_len=pl.min_horizontal(_following("length", first), room),
    ).pipe(_with_ids, TokenFile(paths.tokens(split)))
    by_pair = distinct.select("pair_id", "run").join(matches, on="run", how="left").drop("run")
    return pairs.select("pair_id").join(by_pair, on="pair_id", how="left", maintain_order="left").drop("pair_id")


def _following(column: str, first: pl.DataFrame) -> pl.Series:
    """A column, taken from the next run; for the last run, from the first run with another prompt."""
    values, prompts = first.get_column(column), first.get_column("prompt_id")
    after_last = values[:0] if first.is_empty() else values[:1] if prompts[0] != prompts[-1] else values[1:2]
    return pl.concat([values[1:], after_last])


def _with_ids(matches: pl.DataFrame, tokens: TokenFile) -> pl.DataFrame:
    rows = matches.select("pair", "donor", "column", "kl_len").iter_rows()
    ids = [
        completion_id(tokens.row(pair, "prompt_ids"), tokens.row(donor, column)[:length])
        for pair, donor, column, length in rows
    ]
    return matches.select("run", "donor", "column", "kl_len", kl_id=pl.Series(ids, dtype=pl.String))
