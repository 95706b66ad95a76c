"""The pairs and random draws of an optimizer step: functions of seed and step, so that resuming needs no state."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt


def steps_per_epoch(pairs: int, batch_pairs: int) -> int:
    """Optimizer steps in one pass over the pairs; the last may be smaller."""
    return math.ceil(pairs / batch_pairs)


def planned_steps(pairs: int, batch_pairs: int, *, epochs: float, max_steps: int | None) -> int:
    """Optimizer steps of a whole run."""
    return max_steps or math.ceil(epochs * steps_per_epoch(pairs, batch_pairs))


def batch(pairs: int, step: int, batch_pairs: int, *, shuffle: bool, seed: int) -> tuple[int, npt.NDArray[np.int64]]:
    """The epoch (from 0) and the pair numbers of an optimizer step (from 1)."""
    epoch, within = divmod(step - 1, steps_per_epoch(pairs, batch_pairs))
    first, last = within * batch_pairs, min((within + 1) * batch_pairs, pairs)
    return epoch, _shuffled(pairs, epoch, seed)[first:last] if shuffle else np.arange(first, last)


@lru_cache(maxsize=1)  # for an epoch: shuffling 10 million pairs takes most of a second
def _shuffled(pairs: int, epoch: int, seed: int) -> npt.NDArray[np.int64]:
    order = np.random.default_rng([seed, epoch]).permutation(pairs)
    order.flags.writeable = False
    return order


def exponential_draws(pairs: int, step: int, *, seed: int) -> npt.NDArray[np.float64]:
    """Exp(1) draws of a step, one per pair: the same on every process and for any micro-batching."""
    return np.random.default_rng([seed, step, 1]).standard_exponential(pairs)
