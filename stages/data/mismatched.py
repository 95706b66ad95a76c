"""KTO's mismatched completions: each prompt with a completion of another prompt.

In the order of the split, a pair's prompt is matched with the chosen completion of the next pair that has another
prompt, or in unpaired data with its only completion, good or bad; after the last pair comes the first. Copies of a pair
share the match of the first copy. The completion is cut so that both fit `max_length`. Only its score is stored:
`score` and `train` find its tokens in the token files.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.pipeline.audit.measures.groups import groups
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.identity import completion_id
from scoreonce.stages.common.files import read_json
from scoreonce.stages.common.frames import scan_frame
from scoreonce.stages.common.paths import RunPaths, Split
from scoreonce.stages.data.token_file import TokenColumn, TokenFile

_LENGTHS = ["prompt_len", "chosen_len", "rejected_len"]
_COLUMNS: tuple[TokenColumn, TokenColumn] = ("rejected_ids", "chosen_ids")
_IDS_AT_ONCE = 1 << 16
Rows = npt.NDArray[np.int64]


def mismatched_completions(paths: RunPaths, split: Split) -> pl.DataFrame:
    """Per row of a split's token file: kl_id, kl_len, donor, the row whose completion it is matched with, and column.

    Lengths are in tokens. Some 60 bytes a pair, and at most three times as many while they are found. Raises
    `InputError` if all pairs of the split have the same prompt.
    """
    pairs = scan_frame(paths.pairs(split))
    same = groups(pairs, "pair_id")
    first_copy = same.first[same.number]
    distinct = np.flatnonzero(first_copy == np.arange(len(first_copy)))
    prompts = groups(pairs, "prompt_id").number[distinct]
    # Consecutive pairs with one prompt have the same match.
    starts = np.ones(len(prompts), bool)
    starts[1:] = prompts[1:] != prompts[:-1]
    first, prompts = distinct[starts], prompts[starts]
    if len(first) == 1:
        raise InputError(
            "Mismatched completions need pairs of different prompts.",
            found=f"one prompt in all {len(first_copy):,} pairs of {split}",
            where=str(paths.pairs(split)),
            fix="Set score.mismatched = false, or use data with more prompts.",
        )
    run = np.empty(len(first_copy), np.int32)
    run[distinct] = np.cumsum(starts) - 1
    run = run[first_copy]
    lengths = pairs.select(_LENGTHS).collect(engine="streaming")
    prompt, chosen, rejected = (lengths[name].to_numpy()[first] for name in _LENGTHS)
    following = _following(prompts)
    donor, has_chosen = first[following], (chosen > 0)[following]
    room = int(read_json(paths.pairs_manifest)["config"]["max_length"]) - prompt
    length = np.minimum(np.where(chosen > 0, chosen, rejected)[following], room)
    tokens = TokenFile(paths.tokens(split))
    ids = pl.concat([pl.Series([], dtype=pl.String), *_ids(first, donor, has_chosen, length, tokens)], rechunk=True)
    columns = pl.Series([*_COLUMNS], dtype=pl.Enum(_COLUMNS))
    return pl.DataFrame(
        {
            "kl_id": ids.gather(run),
            "kl_len": length.astype(np.int32)[run],
            "donor": donor.astype(np.uint32)[run],
            "column": columns.gather(has_chosen.astype(np.uint32)[run]),
        }
    )


def _following(prompts: npt.NDArray[np.int32]) -> Rows:
    """The next run of each; for the last run, the first one with another prompt."""
    following = np.arange(1, len(prompts) + 1)
    if len(prompts):
        following[-1] = 0 if prompts[0] != prompts[-1] else 1
    return following


def _ids(
    first: Rows, donor: Rows, has_chosen: npt.NDArray[np.bool_], length: Rows, tokens: TokenFile
) -> Iterator[pl.Series]:
    """The id of each prompt with its donor's completion, in pieces."""
    for start in range(0, len(first), _IDS_AT_ONCE):
        some = slice(start, start + _IDS_AT_ONCE)
        matches = zip(*(column[some].tolist() for column in (first, donor, has_chosen, length)), strict=True)
        ids = [
            completion_id(tokens.row(pair, "prompt_ids"), tokens.row(other, _COLUMNS[chosen])[:tokens_kept])
            for pair, other, chosen, tokens_kept in matches
        ]
        yield pl.Series(ids, dtype=pl.String)
