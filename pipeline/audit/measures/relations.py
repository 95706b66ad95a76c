"""Relations between pairs: copies, contradictions, shared prompts, the two splits. Exact, by identity.

Identity is that of the token ids (`pair_id`, `prompt_id`), and once more that of the normalised text: `prompt_key`,
`chosen_key` and `rejected_key` hash the words in lower case, so that texts which differ only in case, white space
or punctuation have the same key.

Relations are of all pairs at once, so they are kept narrow: another pair is named by its number, four bytes, and
`with_ids` puts its id there when a piece of them is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.pipeline.audit.measures.groups import Flags, Groups, Numbers, groups

SAME_WORDS = ["prompt_key", "chosen_key", "rejected_key"]
# Columns that number another pair, and those of its id.
_IDS = {
    "opposite_pair": "opposite_pair_id",
    "near_prompt_other": "near_prompt_other_id",
    "near_completion_other": "near_completion_other_id",
}
_HELD_OUT = pl.col("split") == "test"


def _sides(chosen: str, rejected: str) -> list[pl.Expr]:
    """Both columns in ascending order: the same for a pair and for the pair with its sides swapped."""
    return [pl.min_horizontal(chosen, rejected), pl.max_horizontal(chosen, rejected)]


def relations(pairs: pl.LazyFrame) -> pl.DataFrame:
    """A row for each pair, in their order, null where a pair has no such relation:

    pairs_of_prompt, copies (pairs of this pair_id), copy_of (row of the first one, null for that),
    opposite_pair (number of one with the same completions and the opposite label), same_words (pairs whose texts have
    the same words), words_contradicted (some of those with the opposite label), prompt_splits, prompt_key_splits
    (1 or 2).
    """
    held_out = pairs.select(_HELD_OUT).collect(engine="streaming").to_series().to_numpy()
    # A row of one completion has it on one side only; good and bad, it is the same completion with opposite labels.
    completions, keys = _sides("chosen_id", "rejected_id"), _sides("chosen_key", "rejected_key")
    label = pl.coalesce(pl.col("chosen_key") < pl.col("rejected_key"), pl.col("chosen_key").is_not_null())
    by_prompt = groups(pairs, "prompt_id")
    columns: dict[str, npt.NDArray[Any]] = {
        "pairs_of_prompt": by_prompt.sizes(),
        "prompt_splits": _splits(by_prompt, held_out),
    }
    same = groups(pairs, "pair_id")
    columns["copies"] = same.sizes()
    first = same.first[same.number]
    opposite = _opposite(first, groups(pairs, *completions))
    columns["same_words"] = groups(pairs, *SAME_WORDS).sizes()
    labels = pairs.select(label).collect(engine="streaming").to_series().to_numpy()
    columns["words_contradicted"] = groups(pairs, "prompt_key", *keys).mixed(labels)
    columns["prompt_key_splits"] = _splits(groups(pairs, "prompt_key"), held_out)
    rows = pairs.select("row").collect(engine="streaming")["row"]
    is_copy = first != np.arange(len(first))
    found = pl.DataFrame(columns).with_columns(
        copy_of=pl.when(pl.Series(is_copy)).then(rows.gather(first)),
        opposite_pair=pl.when(pl.Series(opposite != first)).then(pl.Series(opposite)),
    )
    names = ["pairs_of_prompt", "prompt_splits", "copies", "copy_of", "opposite_pair", "same_words"]
    return found.select(*names, "words_contradicted", "prompt_key_splits")


def _splits(of: Groups, held_out: Flags) -> npt.NDArray[np.uint32]:
    """(pairs,) in how many splits each pair's group is."""
    return of.mixed(held_out).astype(np.uint32) + np.uint32(1)


def _opposite(first: Numbers, completions: Groups) -> Numbers:
    """(pairs,) the first pair with each pair's completions and another id, its own id's where there is none.

    `first` numbers the first pair of each pair's id.
    """
    count = len(completions.first)
    lowest, highest = np.full(count, len(first), np.int32), np.full(count, -1, np.int32)
    np.minimum.at(lowest, completions.number, first)
    np.maximum.at(highest, completions.number, first)
    low, high = lowest[completions.number], highest[completions.number]
    return np.where(first == low, high, low)


def near_relations(pairs: pl.LazyFrame, prompts: pl.DataFrame, completions: pl.DataFrame) -> pl.DataFrame:
    """A row for each pair: near_prompt_group, near_chosen_group, near_rejected_group, near_prompt_splits (splits of a
    group's prompts), and the number of another pair with a similar text: near_prompt_other, near_completion_other.

    `prompts` and `completions` have `key`, a group's number and the number of a pair with a similar text.
    """
    found = _looked_up(pairs, "prompt", prompts)
    splits = pairs.select("split").collect(engine="streaming").hstack(found).lazy()
    of_group = splits.drop_nulls("near_prompt_group").group_by("near_prompt_group")
    in_splits = of_group.agg(near_prompt_splits=pl.col("split").n_unique()).collect(engine="streaming")
    found = found.join(in_splits, on="near_prompt_group", how="left", maintain_order="left")
    for side in ("chosen", "rejected"):
        named = {f"near_completion_{what}": f"near_{side}_{what}" for what in ("group", "other")}
        found = found.hstack(_looked_up(pairs, side, completions.rename(named)))
    groups_of = [f"near_{side}_group" for side in ("prompt", "chosen", "rejected")]
    return found.select(
        *groups_of,
        "near_prompt_splits",
        "near_prompt_other",
        near_completion_other=pl.coalesce("near_chosen_other", "near_rejected_other"),
    )


def _looked_up(pairs: pl.LazyFrame, side: str, found: pl.DataFrame) -> pl.DataFrame:
    """A side's group and other pair, narrow; null where the side has none."""
    key = f"{side}_key"
    joined = pairs.select(key).join(found.lazy(), left_on=key, right_on="key", how="left", maintain_order="left")
    return joined.drop(key).select(pl.all().cast(pl.Int32)).collect(engine="streaming")


def with_ids(related: pl.DataFrame, pair_ids: pl.Series) -> pl.DataFrame:
    """Relations with the ids of other pairs, of all `pair_ids`, in place of their numbers."""
    named = {name: id_ for name, id_ in _IDS.items() if name in related.columns}
    wide = [name for name in related.columns if name.endswith("_group")]
    return related.with_columns(
        pl.col(wide).cast(pl.Int64), *(pair_ids.gather(related[name]).alias(name) for name in named)
    ).rename(named)
