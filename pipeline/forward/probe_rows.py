"""Random prompt rows by which the layouts of a model are tried."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from scoreonce.pipeline.batches.prompt_rows import SEQUENCE_LENGTHS, PromptRow
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.rotary import RotaryLengths

Ids = npt.NDArray[np.int32]


def short_rows(model: PreTrainedModel, seed: int = 0) -> list[PromptRow]:
    """Three rows of prompts of 2 to 23 tokens, each with three completions of up to 15."""
    random, vocabulary = np.random.default_rng(seed), _vocabulary(model)

    def ids(low: int, high: int) -> Ids:
        return random.integers(0, vocabulary, random.integers(low, high), dtype=np.int32)

    return [PromptRow(ids(2, 24), (ids(1, 16), ids(8, 16), ids(1, 16))) for _ in range(3)]


def rows_past_the_window(model: PreTrainedModel, longest_row: int) -> list[PromptRow]:
    """A row of `longest_row` positions where these differ from a short one's: see `choose_layout`."""
    rotary = RotaryLengths.of(model)
    usual = [limit.length for limit in rotary.limits] if rotary else []
    windows = [window for window in (architecture.windows(model) or {}).values() if window]
    if longest_row <= min([*windows, *usual], default=longest_row):
        return []
    ids = _tokens_of(model, 1)(longest_row)
    third = max(1, longest_row // 3)
    return [PromptRow(ids[:third], (ids[third : 2 * third], ids[2 * third :]))]


def rows_to_continue(model: PreTrainedModel, longest_row: int) -> list[list[PromptRow]]:
    """Micro-batches whose completions go on from a cache, of rows of up to `longest_row` positions, about.

    Prompts and completions are shorter and longer than the kernels of convolutions (3 or 4 positions) and than the
    chunks by which states are computed (64 in Qwen3-Next, 128 or 256 in Mamba 2 and MiniMax). In one only a single
    token goes on, for which models have other code; in one there are prompts of two lengths.
    """
    ids, longest = _tokens_of(model, 3), max(8, longest_row)

    def row(before: int, *tokens: int) -> PromptRow:
        start = min(before, longest // 2)
        return PromptRow(ids(start), tuple(ids(min(each, longest - start)) for each in tokens))

    return [[row(2, 1, 1)], [row(3, 1, 16, 7)], [row(70, 7, 2), row(66, 16)], [row(300, 5, 280)]]


def rows_to_time(model: PreTrainedModel, longest_row: int, multiple: int) -> list[PromptRow]:
    """A full sequence of rows half as long as the longest."""
    ids, tokens = _tokens_of(model, 2), max(8, longest_row // 2)
    count = max(1, SEQUENCE_LENGTHS * multiple // tokens)
    return [PromptRow(ids(tokens // 2), (ids(tokens // 4), ids(tokens // 4))) for _ in range(count)]


def _tokens_of(model: PreTrainedModel, seed: int) -> Callable[[int], Ids]:
    """What draws so many token ids at random."""
    random, vocabulary = np.random.default_rng(seed), _vocabulary(model)
    return lambda length: random.integers(0, vocabulary, length, dtype=np.int32)


def _vocabulary(model: PreTrainedModel) -> int:
    """Number of token ids that the model both reads and predicts."""
    return min(len(model.get_input_embeddings().weight), len(architecture.head_of(model).weight))
