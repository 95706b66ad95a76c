"""Relations between pairs: copies, contradictions, shared prompts, the two splits. Exact, by identity.

Identity is that of the token ids (`pair_id`, `prompt_id`), and once more that of the normalised text: `prompt_key`,
`chosen_key` and `rejected_key` hash the words in lower case, so that texts which differ only in case, white space
or punctuation have the same key.
"""

from __future__ import annotations

import polars as pl

SAME_WORDS = ["prompt_key", "chosen_key", "rejected_key"]


def _sides(chosen: str, rejected: str) -> list[pl.Expr]:
    """Both columns in ascending order: the same for a pair and for the pair with its sides swapped."""
    return [pl.min_horizontal(chosen, rejected), pl.max_horizontal(chosen, rejected)]


def with_relations(pairs: pl.DataFrame) -> pl.DataFrame:
    """Adds these columns, null where a pair has no such relation:

    pairs_of_prompt, copies (pairs of this pair_id), copy_of (row of the first one, null for that),
    opposite_pair_id (the same completions with the opposite label), same_words (pairs whose texts have the same
    words), words_contradicted (some of those with the opposite label), prompt_splits, prompt_key_splits (1 or 2).
    """
    # A row of one completion has it on one side only; good and bad, it is the same completion with opposite labels.
    completions, keys = _sides("chosen_id", "rejected_id"), _sides("chosen_key", "rejected_key")
    lowest, highest = pl.col("pair_id").min().over(completions), pl.col("pair_id").max().over(completions)
    opposite = pl.when(pl.col("pair_id") == lowest).then(highest).otherwise(lowest)
    label = pl.coalesce(pl.col("chosen_key") < pl.col("rejected_key"), pl.col("chosen_key").is_not_null())
    # One grouping after the other: side by side, their groups would take more memory than the pairs.
    steps: list[dict[str, pl.Expr]] = [
        {"pairs_of_prompt": pl.len().over("prompt_id"), "prompt_splits": pl.col("split").n_unique().over("prompt_id")},
        {
            "copies": pl.len().over("pair_id"),
            "copy_of": pl.when(~pl.col("pair_id").is_first_distinct()).then(pl.col("row").first().over("pair_id")),
        },
        {"opposite_pair_id": pl.when(opposite != pl.col("pair_id")).then(opposite)},
        {"same_words": pl.len().over(SAME_WORDS)},
        {"words_contradicted": label.min().over(["prompt_key", *keys]) != label.max().over(["prompt_key", *keys])},
        {"prompt_key_splits": pl.col("split").n_unique().over("prompt_key")},
    ]
    for step in steps:
        pairs = pairs.with_columns(**step)
    return pairs


def with_near_duplicates(pairs: pl.DataFrame, prompts: pl.DataFrame, completions: pl.DataFrame) -> pl.DataFrame:
    """Adds near_prompt_group, near_chosen_group, near_rejected_group, near_prompt_splits (splits of a group's prompts)
    and the pair_id of another pair with a similar text: near_prompt_other_id, near_completion_other_id.

    `prompts` and `completions` have `key`, a group's number and the number of a pair with a similar text.
    """
    joined = pairs.join(prompts, left_on="prompt_key", right_on="key", how="left", maintain_order="left")
    for side in ("chosen", "rejected"):
        named = completions.rename(
            {"near_completion_group": f"near_{side}_group", "near_completion_other": f"near_{side}_other"}
        )
        joined = joined.join(named, left_on=f"{side}_key", right_on="key", how="left", maintain_order="left")
    pair_id, other = joined["pair_id"], pl.coalesce("near_chosen_other", "near_rejected_other")
    return joined.with_columns(
        near_prompt_splits=pl.when(pl.col("near_prompt_group").is_not_null()).then(
            pl.col("split").n_unique().over("near_prompt_group")
        ),
        near_prompt_other_id=pl.lit(pair_id).gather(pl.col("near_prompt_other")),
        near_completion_other_id=pl.lit(pair_id).gather(other),
    ).drop("near_prompt_other", "near_chosen_other", "near_rejected_other")
