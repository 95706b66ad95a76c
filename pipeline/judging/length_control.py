"""The win rate that a model would have if its completions were as long as those that they are compared with.

AlpacaEval 2's model of a judge's preference for completion m over b, of prompt x:

    P(m beats b) = sigmoid(θ + φ · tanh(d / s) + ψ · γ_x)

d is the length of b less that of m in characters, s the sample deviation of d over all comparisons, γ_x the difficulty
of the prompt, where it is known. θ, φ and ψ are fitted to the preferences, which may be any number from 0 to 1; the
length-controlled win rate is the mean over the comparisons of sigmoid(θ + ψ · γ_x), the same at d = 0. Where γ is not
known, that is sigmoid(θ), which is too high for a side that is nearly always shorter (docs/judge.md).

Source: Dubois et al. 2024, arXiv 2404.04475, and tatsu-lab/alpaca_eval, `length_controlled_v1`. That implementation
adds, with weight 0.2, annotations of two rewritten baselines (verbose and concise), which only its own 805 prompts
have, takes γ from a file of those prompts, and chooses an L1 penalty by cross-validation. Here the penalty is a fixed
(θ² + φ² + ψ²) / 2000, which only keeps a fit finite where one side wins everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from scoreonce.pipeline.evaluation.intervals import Z95

Floats = npt.NDArray[np.float64]
PENALTY = 1e-3


@dataclass(frozen=True)
class LengthControlled:
    """The win rate at equal lengths with its 95 % interval, and the fitted coefficients θ, φ and ψ."""

    win_rate: float
    low: float
    high: float
    model: float
    length: float
    difficulty: float | None


def length_controlled(
    preference: Sequence[float],
    length: Sequence[int],
    other_length: Sequence[int],
    prompts: Sequence[str],
    difficulty: Sequence[float] | None = None,
) -> LengthControlled | None:
    """The length-controlled win rate of comparisons, each with its lengths in characters and its prompt.

    The interval is that of the delta method with a sandwich variance clustered by prompt. None for fewer than two
    prompts, and where all differences of length are the same and not 0: what length does cannot be told then.
    """
    y = np.asarray(preference, np.float64)  # (comparisons,)
    shorter = np.asarray(other_length, np.float64) - np.asarray(length, np.float64)
    if len(set(prompts)) < 2:
        return None
    deviation = float(shorter.std(ddof=1))
    if deviation == 0 and shorter.any():
        return None
    ones = np.ones_like(y)
    lengths = np.tanh(shorter / deviation) if deviation else np.zeros_like(y)
    gamma = [] if difficulty is None else [np.asarray(difficulty, np.float64)]
    x = np.stack([ones, lengths, *gamma], 1)  # (comparisons, coefficients)
    weights = _fit(x, y)
    level = np.stack([ones, np.zeros_like(y), *gamma], 1)  # the same at equal lengths
    fitted = expit(level @ weights)
    rate = float(fitted.mean())
    slope = level.T @ (fitted * (1 - fitted)) / len(y)  # of the rate by the coefficients
    half = Z95 * float(np.sqrt(slope @ _variance(x, y, weights, prompts) @ slope))
    theta, phi, *psi = map(float, weights)
    return LengthControlled(rate, max(0.0, rate - half), min(1.0, rate + half), theta, phi, psi[0] if psi else None)


def _fit(x: Floats, y: Floats) -> Floats:
    """The coefficients of least cross-entropy with the preferences, and the penalty."""

    def loss(weights: Floats) -> float:
        logits = x @ weights
        return float(np.sum(np.logaddexp(0, logits) - y * logits) + PENALTY / 2 * weights @ weights)

    def gradient(weights: Floats) -> Floats:
        return x.T @ (expit(x @ weights) - y) + PENALTY * weights

    found = minimize(loss, np.zeros(x.shape[1]), jac=gradient, hess=lambda w: _hessian(x, w), method="trust-exact")
    return np.asarray(found.x, np.float64)


def _hessian(x: Floats, weights: Floats) -> Floats:
    fitted = expit(x @ weights)
    curved: Floats = (x * (fitted * (1 - fitted))[:, None]).T @ x + PENALTY * np.eye(x.shape[1])
    return curved


def _variance(x: Floats, y: Floats, weights: Floats, prompts: Sequence[str]) -> Floats:
    """Variance of the coefficients, comparisons of one prompt taken together: H⁻¹ (Σ s sᵀ) H⁻¹ · G / (G − 1)."""
    names, group = np.unique(np.asarray(prompts), return_inverse=True)
    scores = np.zeros((len(names), x.shape[1]))
    np.add.at(scores, group, x * (y - expit(x @ weights))[:, None])
    inverse = np.linalg.inv(_hessian(x, weights))
    variance: Floats = inverse @ scores.T @ scores @ inverse * len(names) / (len(names) - 1)
    return variance
