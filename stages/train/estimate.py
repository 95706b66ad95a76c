"""Time and memory of a training run, estimated from a few seconds of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scoreonce.pipeline.training import sampling
from scoreonce.stages.common.gpu_memory import peak_bytes
from scoreonce.stages.train.trainer import Trainer

PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class TrainingEstimate:
    """Of a whole training run, on this machine and this number of processes."""

    steps: int
    tokens: int  # positions of prompt rows over all steps
    seconds: float
    memory: int  # peak bytes of this process


def estimate_training(trainer: Trainer, seconds: float = PROBE_SECONDS) -> TrainingEstimate:
    """Take steps on the pairs of `trainer` for about `seconds`; its policy is useless afterwards.

    The first step has the longest rows, so that the memory is that of the worst step; time is measured on random pairs.
    """
    data, state = trainer.data, trainer.step.method.init_state()
    longest = np.argsort(-data.row_tokens, kind="stable")
    state, *_ = trainer.take(1, 0, _filling(longest, data.row_tokens, trainer.budget), state)
    # A whole batch, or enough of one to fill four micro-batches, so that time is proportional to tokens.
    batch = np.random.default_rng(0).permutation(len(data))[: trainer.run.train.batch_pairs]
    pairs = _filling(batch, data.row_tokens, 4 * trainer.budget)
    tokens, started, enough = 0, time.perf_counter(), False
    while not enough:
        state, *_ = trainer.take(1, 0, pairs, state)
        tokens += int(data.row_tokens[pairs].sum())
        # All processes must take the same number of steps, and their clocks differ.
        enough = trainer.anyone(time.perf_counter() - started >= seconds)
    spent = time.perf_counter() - started
    whole = _tokens(trainer)
    return TrainingEstimate(trainer.steps, whole, spent * whole / tokens, peak_bytes(trainer.accelerator.device))


def _filling(pairs: npt.NDArray[np.int64], row_tokens: npt.NDArray[np.int64], budget: int) -> npt.NDArray[np.int64]:
    """As many of the first `pairs` as fit into `budget` tokens, at least one."""
    return pairs[: max(1, int(np.searchsorted(np.cumsum(row_tokens[pairs]), budget, side="right")))]


def _tokens(trainer: Trainer) -> int:
    """Tokens of all steps; the last step of an epoch may be smaller than the others."""
    pairs, steps = len(trainer.data), sampling.steps_per_epoch(len(trainer.data), trainer.run.train.batch_pairs)
    epochs, rest = divmod(trainer.steps, steps)
    return int(trainer.data.row_tokens.mean() * (epochs * pairs + rest * min(pairs, trainer.run.train.batch_pairs)))
