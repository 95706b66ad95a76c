"""Prompt rows: a prompt and its completions as one row of a forward pass, and how rows become tensors.

Dimensions: sequences = what the model takes as its batch, length = positions of the longest sequence, tokens =
completion tokens of all rows, one completion after the other, completions.
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
FLEX_BLOCK = 128  # positions on a side of one block of flex attention's mask
SEQUENCE_LENGTHS = 8  # distinct lengths of "flex" sequences up to a token budget; each length is compiled once
# On a CPU, sizes that vary are rounded up to a multiple of this. oneDNN compiles a kernel for each new matrix shape,
# which takes as long as multiplying 200 positions (0.4 ms on Zen 5), and caches few of them. 32 is as fast.
CPU_MULTIPLE = 64

RowLayout = Literal["shared", "padded", "packed", "flex", "flash", "continued"]
PACKED_LAYOUTS: tuple[RowLayout, ...] = ("packed", "flex", "flash")  # several rows per sequence


@dataclass(frozen=True)
class PromptRow:
    """A prompt `(prompt_len,)` and its completions, each `(completion_len,)`.

    An empty completion stands for one that unpaired data do not have; the forward pass takes none, see `present`.
    """

    prompt: npt.NDArray[np.int32]
    completions: tuple[npt.NDArray[np.int32], ...]

    @property
    def tokens(self) -> int:
        """Positions of the shared row: the last token of a completion predicts nothing, so it is left out."""
        return len(self.prompt) + sum(max(len(completion) - 1, 0) for completion in self.completions)

    def present(self) -> PromptRow:
        """The row without empty completions."""
        return PromptRow(self.prompt, tuple(completion for completion in self.completions if len(completion)))


class Batch(NamedTuple):
    """A micro-batch as tensors: each sequence holds one prompt row or, where rows are packed, several.

    Prompts and completions are segments, numbered through the whole batch. `prompts` gives the segment of the prompt
    that a position belongs to. `predicts` gives, for each completion token, the flat index (sequence * length +
    position) of the position whose hidden state predicts it.
    """

    input_ids: Tensor  # (sequences, length) int64
    position_ids: Tensor  # (sequences, length) int64
    segments: Tensor  # (sequences, length) int64, or PADDING
    prompts: Tensor  # (sequences, length) int64, or PADDING
    predicts: Tensor  # (tokens,) int64
    targets: Tensor  # (tokens,) int64
    lengths: Tensor  # (completions,) int64

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(*(moved(tensor, device) for tensor in self))


def padded(rows: Sequence[PromptRow]) -> list[PromptRow]:
    """Each completion as a row of its own with its prompt repeated, as in a plain padded forward pass."""
    return [PromptRow(row.prompt, (completion,)) for row in rows for completion in row.completions]


def sequence_multiple(budget: int) -> int:
    """What lengths of "flex" sequences are rounded up to, so that there are SEQUENCE_LENGTHS up to the budget."""
    return max(FLEX_BLOCK, budget // SEQUENCE_LENGTHS // FLEX_BLOCK * FLEX_BLOCK)


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple that is at least `size`."""
    return -(-size // multiple) * multiple


def collate(rows: Sequence[PromptRow], layout: RowLayout, multiple: int = FLEX_BLOCK) -> Batch:
    """Lay rows out as tensors. Position ids restart after the prompt for each of its completions.

    "shared": one sequence per row, padded on the right. "padded": one sequence per completion. "flash": all rows in one
    sequence. "packed": the same, padded to a multiple of CPU_MULTIPLE positions. "flex": padded to a multiple of
    `multiple`, itself a multiple of FLEX_BLOCK. "continued" rows are no tensors of one pass, see `continued_rows`.
    """
    if layout == "padded":
        rows = padded(rows)
    sequences = [rows] if layout in PACKED_LAYOUTS else [[row] for row in rows]
    length = max(sum(row.tokens for row in sequence) for sequence in sequences)
    length = round_up(length, {"packed": CPU_MULTIPLE, "flex": multiple}.get(layout, 1))
    ids, positions = (np.zeros((len(sequences), length), dtype=np.int64) for _ in range(2))
    segments, prompts = (np.full((len(sequences), length), PADDING, dtype=np.int64) for _ in range(2))
    predicts: list[npt.NDArray[np.int64]] = []
    segment = -1
    for number, own in enumerate(sequences):
        # A padding token's embedding may be 0, at which Gemma 3n's backward pass divides by 0. Any real token will do.
        ids[number] = own[0].prompt[0]
        stop = 0
        for row in own:
            start, stop = stop, stop + len(row.prompt)
            segment, last = segment + 1, stop - 1
            prompt, ids[number, start:stop], positions[number, start:stop] = (
                segment,
                row.prompt,
                np.arange(stop - start),
            )
            segments[number, start:stop] = prompts[number, start:stop] = prompt
            for completion in row.completions:
                segment, start, stop = segment + 1, stop, stop + len(completion) - 1
                ids[number, start:stop] = completion[:-1]
                positions[number, start:stop] = len(row.prompt) + np.arange(stop - start)
                segments[number, start:stop], prompts[number, start:stop] = segment, prompt
                # The prompt's last position predicts the first token, each completion position the next one.
                predicts.append(number * length + np.concatenate(([last], np.arange(start, stop))))
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
    """Which position may attend to which, `(sequences, 1, length, length)` bool.

    A position attends to itself, to earlier positions of its own segment and to its prompt, never to another completion
    or another row; with a sliding `window`, only to positions fewer than `window` away. Padding attends to itself, as a
    softmax over nothing would be NaN.
    """
    length = batch.segments.shape[1]
    key, query, prompt = batch.segments.unsqueeze(1), batch.segments.unsqueeze(2), batch.prompts.unsqueeze(2)
    diagonal = torch.eye(length, dtype=torch.bool, device=key.device)
    causal = torch.ones_like(diagonal).tril()
    visible = causal & ((key == query) | (key == prompt)) & (key != PADDING)
    if window is not None:
        visible &= batch.position_ids.unsqueeze(2) - batch.position_ids.unsqueeze(1) < window
    return (visible | diagonal).unsqueeze(1)
