"""Prompt rows: a prompt and its completions as one row of a forward pass, and how rows become tensors.

Dimensions: rows = prompt rows (or padded sequences) of a micro-batch, length = positions of the longest row,
tokens = completion tokens of all rows, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PADDING = -1
PROMPT = 0


@dataclass(frozen=True)
class PromptRow:
    """A prompt `(prompt_len,)` and its completions, each `(completion_len,)`; none is empty."""

    prompt: npt.NDArray[np.int32]
    completions: tuple[npt.NDArray[np.int32], ...]

    @property
    def tokens(self) -> int:
        """Positions of the shared row: the last token of a completion predicts nothing, so it is left out."""
        return len(self.prompt) + sum(len(completion) - 1 for completion in self.completions)


class Batch(NamedTuple):
    """A micro-batch as tensors.

    `predicts` holds, for each completion token, the flat index (row * length + position) of the position whose hidden
    state predicts it; `segments` is `PADDING`, `PROMPT`, or the number of the completion that a position belongs to.
    """

    input_ids: Tensor  # (rows, length) int64
    position_ids: Tensor  # (rows, length) int64
    segments: Tensor  # (rows, length) int64
    predicts: Tensor  # (tokens,) int64
    targets: Tensor  # (tokens,) int64
    lengths: Tensor  # (completions,) int64

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


def padded(rows: Sequence[PromptRow]) -> list[PromptRow]:
    """Each completion as a row of its own, prompt repeated: what a plain padded forward computes."""
    return [PromptRow(row.prompt, (completion,)) for row in rows for completion in row.completions]


def collate(rows: Sequence[PromptRow]) -> Batch:
    """Lay rows out side by side, padded on the right, positions restarting after the prompt for each completion."""
    length = max(row.tokens for row in rows)
    input_ids = np.zeros((len(rows), length), dtype=np.int64)
    position_ids = np.zeros_like(input_ids)
    segments = np.full_like(input_ids, PADDING)
    predicts: list[npt.NDArray[np.int64]] = []
    for index, row in enumerate(rows):
        prompt_len = len(row.prompt)
        input_ids[index, :prompt_len] = row.prompt
        position_ids[index, :prompt_len] = np.arange(prompt_len)
        segments[index, :prompt_len] = PROMPT
        start = prompt_len
        for number, completion in enumerate(row.completions, start=1):
            stop = start + len(completion) - 1
            input_ids[index, start:stop] = completion[:-1]
            position_ids[index, start:stop] = np.arange(prompt_len, prompt_len + stop - start)
            segments[index, start:stop] = number
            # The prompt's last position predicts the first token, each completion position the next one.
            predicts.append(index * length + np.concatenate(([prompt_len - 1], np.arange(start, stop))))
            start = stop
    completions = [completion for row in rows for completion in row.completions]
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(position_ids),
        torch.from_numpy(segments),
        torch.from_numpy(np.concatenate(predicts)),
        torch.from_numpy(np.concatenate(completions).astype(np.int64)),
        torch.tensor([len(completion) for completion in completions]),
    )


def attention_mask(batch: Batch, window: int | None = None) -> Tensor:
    """Which position may attend to which, `(rows, 1, length, length)` bool.

    A position sees itself and what stands before it in its prompt and its own completion, never another completion,
    and with a sliding `window` only what is fewer than `window` positions away. Padding sees itself, so that no
    softmax is over nothing.
    """
    query, key = batch.segments.unsqueeze(2), batch.segments.unsqueeze(1)
    length = batch.segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    visible = causal & ((key == PROMPT) | (key == query)) & (key != PADDING)
    if window is not None:
        visible &= batch.position_ids.unsqueeze(2) - batch.position_ids.unsqueeze(1) < window
    visible |= torch.eye(length, dtype=torch.bool, device=query.device)
    return visible.unsqueeze(1)
