"""Prompt rows: a prompt and its completions as one row of a forward pass, and how rows become tensors.

Dimensions: lines = sequences of the model's forward pass, length = positions of the longest line,
tokens = completion tokens of all rows, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scoreonce.pipeline.batches.device_transfer import moved

PADDING = -1
FLEX_BLOCK = 128  # positions; flex attention works on blocks of attention of this size
SEQUENCE_LENGTHS = 8  # that lines of block masks come in, up to a budget of tokens: each is compiled
# On a CPU sizes that differ from line to line are multiples of this: oneDNN compiles every shape of product that it
# meets, which takes as long as multiplying 200 positions (0.4 ms on Zen 5), and keeps few. With 32 it is as fast.
CPU_MULTIPLE = 64

RowLayout = Literal["shared", "padded", "packed", "flex", "flash"]
PACKED_LAYOUTS: tuple[RowLayout, ...] = ("packed", "flex", "flash")  # several rows in a line


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
    """A micro-batch as tensors: lines of positions, each holding one prompt row or, packed, several.

    Prompts and completions are segments, numbered over the whole batch; `prompts` names the prompt that a position's
    segment belongs to, which for a prompt is itself. `predicts` holds, for each completion token, the flat index
    (line * length + position) of the position whose hidden state predicts it.
    """

    input_ids: Tensor  # (lines, length) int64
    position_ids: Tensor  # (lines, length) int64
    segments: Tensor  # (lines, length) int64, or PADDING
    prompts: Tensor  # (lines, length) int64, or PADDING
    predicts: Tensor  # (tokens,) int64
    targets: Tensor  # (tokens,) int64
    lengths: Tensor  # (completions,) int64

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(*(moved(tensor, device) for tensor in self))


def padded(rows: Sequence[PromptRow]) -> list[PromptRow]:
    """Each completion as a row of its own, prompt repeated: what a plain padded forward computes."""
    return [PromptRow(row.prompt, (completion,)) for row in rows for completion in row.completions]


def sequence_multiple(budget: int) -> int:
    """What line lengths of the layout "flex" are rounded up to: LINE_LENGTHS up to a budget of tokens."""
    return max(FLEX_BLOCK, budget // SEQUENCE_LENGTHS // FLEX_BLOCK * FLEX_BLOCK)


def round_up(size: int, multiple: int) -> int:
    """The least multiple that is not below `size`."""
    return -(-size // multiple) * multiple


def collate(rows: Sequence[PromptRow], layout: RowLayout, multiple: int = FLEX_BLOCK) -> Batch:
    """Lay rows out as tensors; positions restart after the prompt for each of its completions.

    "shared": a line per row, padded on the right. "padded": a line per completion. "flash": all rows in one
    line. "packed": the same, padded to a multiple of CPU_MULTIPLE positions. "flex": to one of `multiple`, itself a
    multiple of BLOCK.
    """
    if layout == "padded":
        rows = padded(rows)
    lines = [rows] if layout in PACKED_LAYOUTS else [[row] for row in rows]
    length = max(sum(row.tokens for row in line) for line in lines)
    length = round_up(length, {"packed": CPU_MULTIPLE, "flex": multiple}.get(layout, 1))
    ids, positions = (np.zeros((len(lines), length), dtype=np.int64) for _ in range(2))
    segments, prompts = (np.full((len(lines), length), PADDING, dtype=np.int64) for _ in range(2))
    predicts: list[npt.NDArray[np.int64]] = []
    segment = -1
    for line, own in enumerate(lines):
        stop = 0
        for row in own:
            start, stop = stop, stop + len(row.prompt)
            segment, last = segment + 1, stop - 1
            prompt, ids[line, start:stop], positions[line, start:stop] = segment, row.prompt, np.arange(stop - start)
            segments[line, start:stop] = prompts[line, start:stop] = prompt
            for completion in row.completions:
                segment, start, stop = segment + 1, stop, stop + len(completion) - 1
                ids[line, start:stop] = completion[:-1]
                positions[line, start:stop] = len(row.prompt) + np.arange(stop - start)
                segments[line, start:stop], prompts[line, start:stop] = segment, prompt
                # The prompt's last position predicts the first token, each completion position the next one.
                predicts.append(line * length + np.concatenate(([last], np.arange(start, stop))))
    completions = [completion for row in rows for completion in row.completions]
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(segments),
        torch.from_numpy(prompts),
        torch.from_numpy(np.concatenate(predicts)),
        torch.from_numpy(np.concatenate(completions).astype(np.int64)),
        torch.tensor([len(completion) for completion in completions]),
    )


def attention_mask(batch: Batch, window: int | None = None) -> Tensor:
    """Which position may attend to which, `(lines, 1, length, length)` bool.

    A position sees itself and what stands before it in its own segment and in its prompt, never another completion or
    another row, and with a sliding `window` only what is fewer than `window` positions away. Padding sees itself, so
    that no softmax is over nothing.
    """
    length = batch.segments.shape[1]
    key, query, prompt = batch.segments.unsqueeze(1), batch.segments.unsqueeze(2), batch.prompts.unsqueeze(2)
    diagonal = torch.eye(length, dtype=torch.bool, device=key.device)
    causal = torch.ones_like(diagonal).tril()
    visible = causal & ((key == query) | (key == prompt)) & (key != PADDING)
    if window is not None:
        visible &= batch.position_ids.unsqueeze(2) - batch.position_ids.unsqueeze(1) < window
    return (visible | diagonal).unsqueeze(1)
