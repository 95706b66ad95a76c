"""What a training run will cost, from a few seconds of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scoreonce.pipeline.training import sampling
from scoreonce.stages.models.memory import peak_bytes
from scoreonce.stages.train.trainer import Trainer

PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class TrainingEstimate:
    """Of a whole training run, on this machine with as many processes as now."""

    steps: int
    tokens: int  # positions of prompt rows over all steps
    seconds: float
    memory: int  # peak bytes of this process


def estimate_training(trainer: Trainer, seconds: float = PROBE_SECONDS) -> TrainingEstimate:
    """Take steps on the pairs of `trainer` for about `seconds`; its policy is of no use afterwards.

    One step holds the longest rows, so that memory is that of the worst step; the time is that of pairs as they come.
    """
    data, state = trainer.data, trainer.step.method.init_state()
    longest = np.argsort(-data.row_tokens, kind="stable")
    state, *_ = trainer.take(1, 0, _filling(longest, data.row_tokens, trainer.budget), state)
    # A whole batch, or as much of one as fills some micro-batches: time is in proportion to tokens then.
    batch = np.random.default_rng(0).permutation(len(data))[: trainer.run.train.batch_pairs]
    pairs = _filling(batch, data.row_tokens, 4 * trainer.budget)
    tokens, started, enough = 0, time.perf_counter(), False
    while not enough:
        state, *_ = trainer.take(1, 0, pairs, state)
        tokens += int(data.row_tokens[pairs].sum())
        # A step is taken by all processes or by none, and their clocks differ.
        enough = trainer.anyone(time.perf_counter() - started >= seconds)
    spent = time.perf_counter() - started
    whole = _tokens(trainer)
    return TrainingEstimate(trainer.steps, whole, spent * whole / tokens, peak_bytes(trainer.accelerator.device))


def _filling(pairs: npt.NDArray[np.int64], row_tokens: npt.NDArray[np.int64], budget: int) -> npt.NDArray[np.int64]:
    """The first of `pairs`, one at least, as many as stay within `budget` tokens."""
    return pairs[: max(1, int(np.searchsorted(np.cumsum(row_tokens[pairs]), budget, side="right")))]


def _tokens(trainer: Trainer) -> int:
    """Of all steps: an epoch's last one may be smaller than the others."""
    pairs, steps = len(trainer.data), sampling.steps_per_epoch(len(trainer.data), trainer.run.train.batch_pairs)
    epochs, rest = divmod(trainer.steps, steps)
    return int(trainer.data.row_tokens.mean() * (epochs * pairs + rest * min(pairs, trainer.run.train.batch_pairs)))
