"""What a stage goes through: prompt rows of a micro-batch, and the positions of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import RunPaths, Split

Side = str  # "chosen", "rejected" or "mismatched"
MILLION = 1_000_000


@dataclass(frozen=True)
class Workload:
    """The rows of the largest micro-batch, and the sums of an epoch."""

    rows: tuple[PromptRow, ...]
    accumulates: bool  # whether a step has several micro-batches on a GPU, as far as that is known
    pairs: int | None  # of an epoch; None where the pairs are not prepared, and sums are of a million positions
    positions: int
    predicted: int  # completion tokens
    visible: int  # (query, key) pairs that attention goes through


def assumed(budget: int, max_length: int) -> Workload:
    """Where no pairs are prepared: a budget of rows of `max_length`, nearly all of it completions."""
    length = min(max_length, budget)
    row = _row(1, [length - length // 2, length // 2 + 1])
    return Workload((row,) * (budget // length), True, None, MILLION, MILLION, MILLION * length // 2)


def of_pairs(
    paths: RunPaths,
    splits: Sequence[Split],
    sides: Sequence[Side],
    budget: int,
    most: int,
    *,
    step_tokens: bool,
    places: npt.NDArray[np.int64] | None = None,
) -> Workload | None:
    """The longest rows of prepared pairs, as many as fill a `budget`, at most `most`; None where none are prepared.

    `places`: the rows of the pairs that count, None for all.

    `sides`: the completions that are read; the length of a mismatched one is taken from the rejected. With
    `step_tokens`, `most` is what one GPU has of a step. Raises `InputError` where the pairs cannot be read.
    """
    if not all(paths.pairs(split).exists() for split in splits):
        return None
    lengths = np.concatenate([_lengths(paths, split, sides) for split in splits])  # (pairs, 1 + sides)
    if places is not None:
        lengths = lengths[places]
    if not len(lengths):
        return None
    prompt, completions = lengths[:, 0], lengths[:, 1:]
    fed = np.maximum(completions - 1, 0)
    tokens = prompt + fed.sum(1)
    longest = np.argsort(-tokens, kind="stable")[:most]
    taken = longest[: max(1, int(np.searchsorted(np.cumsum(tokens[longest]), budget, side="right")))]
    visible = prompt * (prompt + 1) // 2 + (fed * prompt[:, None] + fed * (fed + 1) // 2).sum(1)
    return Workload(
        tuple(_row(int(prompt[pair]), [int(size) for size in completions[pair] if size]) for pair in taken),
        not step_tokens or float(tokens.mean()) * min(most, len(tokens)) > budget,
        len(tokens),
        int(tokens.sum()),
        int(completions.sum()),
        int(visible.sum()),
    )


def _lengths(paths: RunPaths, split: Split, sides: Sequence[Side]) -> npt.NDArray[np.int64]:
    columns = ["prompt_len", *(f"{'chosen' if side == 'chosen' else 'rejected'}_len" for side in sides)]
    try:
        frame = read_frame(paths.pairs(split), list(dict.fromkeys(columns)))
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            "The prepared pairs cannot be read.",
            found=str(error),
            where=str(paths.pairs(split)),
            fix="Run `scoreonce prepare` again.",
        ) from None
    return np.stack([frame[name].fill_null(0).to_numpy().astype(np.int64) for name in columns], axis=1)


def _row(prompt: int, completions: Sequence[int]) -> PromptRow:
    return PromptRow(np.zeros(prompt, np.int32), tuple(np.zeros(size, np.int32) for size in completions))
