"""Preference pairs from a graded list: K completions of one prompt with their scores.

A pair is `(chosen, rejected)`, two indices into the list. Completions of equal score are never paired.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

IndexPair = tuple[int, int]
Way = Literal["best_worst", "all_pairs", "random", "rso", "best_of_n"]
Ranking = Literal["first_round", "tournament"]


@dataclass(frozen=True)
class Pairing:
    """How graded lists become pairs. Randomness depends on `seed` and the prompt, so other rows have no effect."""

    way: Way = "best_worst"
    min_gap: float = 0.0
    pairs_per_prompt: int = 1
    rso_samples: int = 8
    rso_beta: float = 0.5
    rso_ranking: Ranking = "first_round"
    seed: int = 0


def pairs_of(scores: Sequence[float], prompt: str, pairing: Pairing) -> list[IndexPair]:
    """The pairs of one list whose score gap is above 0 and at least `min_gap`; none if all scores are equal."""
    match pairing.way:
        case "best_worst":
            found = best_worst(scores)
        case "all_pairs":
            found = all_pairs(scores)
        case "best_of_n":
            found = best_of_n(scores)
        case "random":
            possible = _wide_enough(all_pairs(scores), scores, pairing.min_gap)
            found = random_pairs(possible, pairing.pairs_per_prompt, generator_of(pairing.seed, prompt))
        case "rso":
            random = generator_of(pairing.seed, prompt)
            sample = rejection_sample(scores, pairing.rso_samples, pairing.rso_beta, random)
            rank = first_round_rank if pairing.rso_ranking == "first_round" else tournament_rank
            found = rank(scores, sample)
    return _wide_enough(found, scores, pairing.min_gap)


def generator_of(seed: int, prompt: str) -> np.random.Generator:
    """The random generator of one prompt, seeded by `seed` and the text."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=16, person=b"pairing").digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "big")])


def best_worst(scores: Sequence[float]) -> list[IndexPair]:
    """The best against the worst; the first of several equal ones."""
    return _ordered(scores, int(np.argmax(scores)), int(np.argmin(scores)))


def all_pairs(scores: Sequence[float]) -> list[IndexPair]:
    """Every strict pair, in the order of the list."""
    return [pair for first, second in combinations(range(len(scores)), 2) for pair in _ordered(scores, first, second)]


def best_of_n(scores: Sequence[float]) -> list[IndexPair]:
    """The best of the n completions, which best-of-n sampling would return, against each that has a lower score."""
    best = int(np.argmax(scores))
    return [pair for other in range(len(scores)) for pair in _ordered(scores, best, other)]


def random_pairs(possible: Sequence[IndexPair], count: int, random: np.random.Generator) -> list[IndexPair]:
    """`count` of the possible pairs without replacement, each equally likely; all if there are fewer."""
    drawn = random.permutation(len(possible))[:count]
    return [possible[index] for index in drawn]


def rejection_sample(scores: Sequence[float], count: int, beta: float, random: np.random.Generator) -> list[int]:
    """Statistical rejection sampling: `count` completions, or all if there are fewer, in the order of acceptance.

    Pass after pass over the candidates, each is accepted with probability exp((r - max r) / beta), max r being that of
    the candidates that are left when the pass begins; the accepted leave. beta -> infinity takes the first `count`,
    beta -> 0 those with the highest scores. Source: Liu et al. 2024 (RSO), arXiv 2309.06657, Algorithm 1.
    """
    accepted: list[int] = []
    left = list(range(len(scores)))
    while left and len(accepted) < count:
        highest, refused = max(scores[index] for index in left), []
        for index in left:
            if len(accepted) < count and random.uniform() < math.exp((scores[index] - highest) / beta):
                accepted.append(index)
            else:
                refused.append(index)
        left = refused
    return accepted


def first_round_rank(scores: Sequence[float], sample: Sequence[int]) -> list[IndexPair]:
    """RSO's first-round-rank: n completions meet once, neighbours in the sample; at most n / 2 pairs."""
    matches = zip(sample[::2], sample[1::2], strict=False)
    return [pair for first, second in matches for pair in _ordered(scores, first, second)]


def tournament_rank(scores: Sequence[float], sample: Sequence[int]) -> list[IndexPair]:
    """RSO's tournament: winners meet again until one is left; at most n - 1 pairs.

    Of equal scores the first advances, without a pair; a completion without an opponent advances too.
    """
    pairs: list[IndexPair] = []
    standing = list(sample)
    while len(standing) > 1:
        pairs += first_round_rank(scores, standing)
        matches = [standing[at : at + 2] for at in range(0, len(standing), 2)]
        standing = [max(match, key=lambda index: scores[index]) for match in matches]
    return pairs


def preferences(scores: Sequence[float], scale: float) -> list[float]:
    """P(y_i beats one of the K) = mean over k of sigmoid(scale (s_i - s_k)), k = i included: 1/2 at equal scores.

    SPPO's estimate of the probability of beating the policy that wrote the list, with a Bradley-Terry model of the
    scores. Source: Wu et al. 2024, arXiv 2405.00675, section 4 (its authors' scores are PairRM's, scale 1).
    """
    values = np.asarray(scores, np.float64)
    gaps = scale * (values[:, None] - values[None, :])  # (K, K)
    won: npt.NDArray[np.float64] = (0.5 + 0.5 * np.tanh(gaps / 2)).mean(1)  # the sigmoid without overflow
    return [float(value) for value in won]


def _ordered(scores: Sequence[float], first: int, second: int) -> list[IndexPair]:
    """The two as a pair, the higher score chosen; no pair where they are equal."""
    if scores[first] == scores[second]:
        return []
    return [(first, second) if scores[first] > scores[second] else (second, first)]


def _wide_enough(pairs: Sequence[IndexPair], scores: Sequence[float], min_gap: float) -> list[IndexPair]:
    return [(chosen, rejected) for chosen, rejected in pairs if scores[chosen] - scores[rejected] >= min_gap]
