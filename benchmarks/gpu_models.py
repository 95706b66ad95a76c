"""What benchmarks/gpu.py measures: shapes of models, profiles of lengths, and the operations that a pass needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers

from scoreonce.pipeline.batches.microbatches import batcher_for
from scoreonce.pipeline.batches.prompt_rows import PromptRow


@dataclass(frozen=True)
class Shape:
    """A model to make with random weights."""

    name: str
    config: transformers.PretrainedConfig


@dataclass(frozen=True)
class Profile:
    """Log-normal lengths of prompts and completions (median, sigma), in tokens, and their bounds."""

    name: str
    prompt: tuple[float, float]
    completion: tuple[float, float]
    max_prompt: int
    max_length: int

    def rows(self, vocabulary: int) -> Iterator[PromptRow]:
        """Pairs without end, the same ones every time."""
        random = np.random.default_rng(0)

        def some(median: float, sigma: float, most: int) -> np.ndarray:
            return random.integers(3, vocabulary, min(most, max(1, int(random.lognormal(math.log(median), sigma)))))

        while True:
            prompt = some(*self.prompt, self.max_prompt).astype(np.int32)
            room = self.max_length - len(prompt)
            yield PromptRow(prompt, tuple(some(*self.completion, room).astype(np.int32) for _ in range(2)))


PROFILES = (
    Profile("HH", (134, 0.9), (46, 0.85), 384, 512),
    Profile("UltraFeedback-like", (32, 0.9), (205, 0.8), 512, 1_024),
    Profile("multi-turn", (1_024, 0.0), (256, 0.0), 1_024, 1_280),
)

SHAPES = (
    Shape(
        "Qwen 1.5B, vocabulary 152k",
        transformers.Qwen2Config(
            vocab_size=151_936,
            hidden_size=1_536,
            intermediate_size=8_960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            max_position_embeddings=4_096,
            tie_word_embeddings=True,
        ),
    ),
    Shape(
        "Llama 0.5B, vocabulary 128k",
        transformers.LlamaConfig(
            vocab_size=128_256,
            hidden_size=1_024,
            intermediate_size=4_096,
            num_hidden_layers=24,
            num_attention_heads=16,
            num_key_value_heads=8,
            max_position_embeddings=4_096,
            tie_word_embeddings=True,
        ),
    ),
    Shape(
        "Llama 3B, vocabulary 128k",
        transformers.LlamaConfig(
            vocab_size=128_256,
            hidden_size=3_072,
            intermediate_size=8_192,
            num_hidden_layers=28,
            num_attention_heads=24,
            num_key_value_heads=8,
            max_position_embeddings=4_096,
            tie_word_embeddings=True,
        ),
    ),
)
SMOKE = Shape(
    "tiny",
    transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2_048,
    ),
)


def operations(model: Any, rows: Sequence[PromptRow], *, shared: bool) -> float:
    """Useful operations of a forward pass over `rows`, the prompt once per pair or once per completion."""
    config = model.config
    layers = model.base_model.layers
    weights = sum(m.weight.numel() for m in layers.modules() if isinstance(m, torch.nn.Linear))
    width = layers[0].self_attn.q_proj.out_features
    positions = visible = predictions = 0
    for row in rows:
        prompt = len(row.prompt)
        lengths = [len(completion) for completion in row.completions]
        predictions += sum(lengths)
        if shared:
            positions += row.tokens
            visible += _causal(prompt) + sum((n - 1) * prompt + _causal(n - 1) for n in lengths)
        else:
            positions += sum(prompt + n for n in lengths)
            visible += sum(_causal(prompt + n) for n in lengths)
    head = 2 * config.hidden_size * config.vocab_size * predictions
    return float(2 * weights * positions + 4 * width * len(layers) * visible + head)


def _causal(length: int) -> int:
    return length * (length + 1) // 2


def rows_that_fill(profile: Profile, vocabulary: int, budget: int, lines: int) -> list[PromptRow]:
    """The first rows of a profile whose tokens fill `lines` lines."""
    rows: list[PromptRow] = []
    left = int(lines * budget * 0.985)
    for row in profile.rows(vocabulary):
        if row.tokens > left:
            break
        rows.append(row)
        left -= row.tokens
    while len(batcher_for("flex")([row.tokens for row in rows], budget)) > lines:
        rows.pop()
    return rows
