"""The reward of the best of n completions, from N scored ones: exact, without drawing any subset.

Best-of-n takes the completion with the highest reward among n of a prompt. Of N ≥ n independent ones, the mean over all
subsets of n of the largest reward is the unbiased estimate of least variance (a U-statistic): the i-th smallest reward
(i from 1) is the largest of C(i − 1, n − 1) of the C(N, n) subsets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scoreonce.pipeline.evaluation.intervals import Z95
from scoreonce.pipeline.samples.estimates import Estimate, ratio

Rewards = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BestOfN:
    """One point of the curve.

    `win_rate` is the chance that the best of n has a higher reward than one completion of another model, ties half;
    None without one. `kl_bound` is log n − (n − 1) / n nats: best-of-n is at most so far from the model that it samples
    (Beirami et al. 2024, arXiv 2401.01879).
    """

    n: int
    reward: Estimate
    win_rate: Estimate | None
    kl_bound: float

    def row(self) -> dict[str, float]:
        """`n`, `reward` with the ends `low` and `high` of its 95 % interval, and `kl_bound`, as pages draw them."""
        half = Z95 * (self.reward.error or 0.0)
        mean = self.reward.mean
        return {"n": self.n, "reward": mean, "low": mean - half, "high": mean + half, "kl_bound": self.kl_bound}


def weights(count: int, n: int) -> Rewards:
    """`(count,)` the share of subsets of n in which each of `count` values in ascending order is the largest.

    C(i − 1, n − 1) / C(count, n). Raises `ValueError` where n is not within 1 and `count`.
    """
    if not 1 <= n <= count:
        raise ValueError(f"best of {n} from {count} samples")
    whole = math.comb(count, n)
    return np.array([math.comb(place, n - 1) / whole for place in range(count)])


def expected_maximum(rewards: Sequence[float], n: int) -> float:
    """The mean over all subsets of n of the largest reward, in the unit of the rewards. Raises as `weights` does."""
    return float(np.sort(np.asarray(rewards, np.float64)) @ weights(len(rewards), n))


def win_rate(rewards: Sequence[float], others: Sequence[float], n: int) -> float:
    """The share of (subset of n, one of `others`) in which the subset's largest reward is higher, ties half.

    `others` are rewards of another model's completions of the same prompt. Against itself a model would have
    n / (n + 1). Raises as `weights` does.
    """
    values = np.sort(np.asarray(rewards, np.float64))
    against = np.asarray(others, np.float64)[:, None]
    ahead = (values > against) + 0.5 * (values == against)  # (others, rewards)
    return float((ahead @ weights(len(values), n)).mean())


def kl_bound(n: int) -> float:
    """log n − (n − 1) / n, in nats."""
    return math.log(n) - (n - 1) / n


def kl_of(logps: float, n: int) -> float:
    """KL(best of n || reference) in nats, estimated at one selected completion of log-prob `logps` under the reference.

    With p = exp(logps) and q = (1 - p)^n: q (log n + (n - 1) log(1 - p) - (n - 1) / n) + (1 - q) log((1 - q) / p).
    Average it over prompts. At p -> 0, and so for all but the shortest completions, it is `kl_bound`.
    """
    if logps >= 0:
        return 0.0  # the only completion there is
    log_missed = _log1mexp(logps)  # log(1 - p)
    missed = math.exp(n * log_missed)  # the completion is not among the n
    # exp(-700) is near the smallest float64; there the ratio is n to the last digit.
    ratio = math.log(n) if logps < -700 else math.log(-math.expm1(n * log_missed)) - logps
    return missed * (math.log(n) + (n - 1) * log_missed - (n - 1) / n) + (1 - missed) * ratio


def curve(
    rewards: Mapping[str, Sequence[float]],
    others: Mapping[str, Sequence[float]] | None = None,
    numbers: Sequence[int] | None = None,
) -> list[BestOfN]:
    """The curve over prompts, each with the rewards of its completions: for 1, 2, 4, … and the most that there are.

    `others` has the rewards of the completions that it is compared with, by the same prompts. Every prompt counts the
    same. A prompt with fewer than n completions is left out at n.
    """
    most = max((len(each) for each in rewards.values()), default=0)
    wanted = numbers or sorted({*(1 << power for power in range(most.bit_length())), most} - {0})
    return [_point(rewards, others or {}, n) for n in wanted if n <= most]


def _point(rewards: Mapping[str, Sequence[float]], others: Mapping[str, Sequence[float]], n: int) -> BestOfN:
    enough = {prompt: each for prompt, each in rewards.items() if len(each) >= n}
    maxima = [expected_maximum(each, n) for each in enough.values()]
    won = [win_rate(each, others[prompt], n) for prompt, each in enough.items() if others.get(prompt)]
    return BestOfN(n, _mean(maxima), _mean(won) if won else None, kl_bound(n))


def _mean(values: Sequence[float]) -> Estimate:
    return ratio(values, np.ones(len(values)))


def _log1mexp(value: float) -> float:
    """log(1 - exp(value)) of a negative value, to full precision at both ends."""
    return math.log1p(-math.exp(value)) if value < -math.log(2) else math.log(-math.expm1(value))
