"""Dropout in training: switched on for a step alone, with noise that is a function of seed, step and rows.

A step may run a micro-batch twice, first for its columns and then for their gradient (`step.Step`). Both passes have to
drop the same, and a resumed run what the uninterrupted one drops. How rows are split into micro-batches, and over
processes, changes the noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.head.token_scores import TokenScores
from scoreonce.schemas.identity import completion_id

Scorer = Callable[..., TokenScores]


@contextmanager
def switched_on(modules: Sequence[nn.Module]) -> Iterator[None]:
    """In this block, `modules` are in training mode; a backward pass that recomputes belongs inside."""
    for module in modules:
        module.train()
    try:
        yield
    finally:
        for module in modules:
            module.eval()


def seeded(scorer: Scorer, seed: int, step: int) -> Scorer:
    """A scorer that draws its noise from `seed`, `step` and the token ids of its rows; torch's own state stays."""

    def score(rows: Sequence[PromptRow], **options: object) -> TokenScores:
        ids = [completion_id(row.prompt, completion) for row in rows for completion in row.completions]
        digest = hashlib.blake2b(" ".join([str(seed), str(step), *ids]).encode(), digest_size=7).digest()
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int.from_bytes(digest, "little"))
            return scorer(rows, **options)

    return score
