"""The length-controlled win rate against AlpacaEval 2's published figures, on its public annotations.

AlpacaEval publishes φ, ψ and θ of each model, and its length-controlled rate, but here not the difficulties γ of the
prompts. They are inferred: a normal distribution of γ from the published coefficients and rates of models of which
there are no annotations, then γ of each prompt from the annotations of models of which there are, by Bayes' rule.
"""

import gzip
import json

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.special import expit

from scoreonce.pipeline.judging.length_control import length_controlled

# Of tatsu-lab/alpaca_eval, judge weighted_alpaca_eval_gpt4_turbo, baseline gpt4_1106_preview: length_controlled_v1's
# coefficients of length, difficulty and model, and the leaderboard's length_controlled_winrate in percent.
ANNOTATED = {
    "claude-2.1": (-1.8104339545938817, 0.8304070732099538, -1.3132371282938735, 25.251943886133027),
    "gpt-3.5-turbo-0301": (-1.9406146538412483, 1.0966954780273372, -2.0913971813576766, 18.09324155198033),
    "alpaca-7b": (-2.2067864500930003, 0.9859274836495522, -3.6907417919074890, 5.875487163278986),
}
OTHERS = {  # difficulty, model, rate
    "cohere": (0.9008193161467072, -2.7059604900032421, 10.893020886573929),
    "jina-chat": (0.9697951496274804, -2.2021603814711144, 15.866004049505932),
    "phi-2": (0.4609680776507991, -3.2866319258286127, 4.398682270855682),
    "guanaco-65b": (0.9651280060379998, -3.1905736489535386, 8.252916991586922),
    "Mixtral-8x7B-Instruct-v0.1": (1.1490632542192407, -1.6076252821367818, 23.68848260134481),
    "Yi-34B-Chat": (0.7927364384888685, -1.1659911777306440, 27.19054787762733),
    "llama-2-70b-chat-hf": (0.9869491424767904, -2.3470779409477869, 14.689648588392544),
    "Meta-Llama-3-70B-Instruct": (0.9032146562678472, -0.7442957089262047, 34.42459717459881),
}
NODES, MASSES = np.polynomial.hermite_e.hermegauss(40)
GRID = np.linspace(-8, 8, 401)  # of γ


def rate(difficulty, model, mean, deviation) -> float:
    """The mean over γ of sigmoid(θ + ψγ), in percent."""
    return 100 * MASSES @ expit(model + difficulty * (mean + deviation * NODES)) / MASSES.sum()


@pytest.fixture(scope="module")
def spread() -> np.ndarray:
    """Mean and deviation of γ."""
    return least_squares(lambda p: [rate(psi, theta, *p) - lc for psi, theta, lc in OTHERS.values()], [0, 1.5]).x


@pytest.fixture(scope="module")
def annotations(shared) -> dict[str, tuple[list[str], np.ndarray, np.ndarray, np.ndarray]]:
    """Of each model in the order of the prompts: the prompts, preferences, its lengths and the baseline's."""
    found: dict[str, list] = {name: [] for name in ANNOTATED}
    with gzip.open(shared / "data/prefs/alpaca_eval_multijudge.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            answer = row["p_response_2_better"].get("weighted_alpaca_eval_gpt4_turbo")
            if answer is not None and row["model_2"] in found:
                lengths = len(row["response_2"]), len(row["response_1"])
                found[row["model_2"]].append((row["prompt"], answer, *lengths))
    return {
        name: ([row[0] for row in rows], *np.array([row[1:] for row in rows], float).T)
        for name, rows in ((name, sorted(rows)) for name, rows in found.items())
    }


def difficulties(annotations, spread, leave_out=None) -> np.ndarray:
    """P(γ = GRID) of each prompt, (prompts, grid), given the annotations of all models but one."""
    logs = np.tile(-(((GRID - spread[0]) / spread[1]) ** 2) / 2, (805, 1))
    for name, (phi, psi, theta, _) in ANNOTATED.items():
        if name != leave_out:
            _, preference, own, other = annotations[name]
            lengths = np.tanh((other - own) / (other - own).std(ddof=1))
            logits = theta + phi * lengths[:, None] + psi * GRID
            logs = logs + preference[:, None] * logits - np.logaddexp(0, logits)
    chances = np.exp(logs - logs.max(1, keepdims=True))
    return chances / chances.sum(1, keepdims=True)


def test_the_definition_gives_the_published_rates(spread):
    """Mean sigmoid(θ + ψγ), with one distribution of γ for all: to half a point for models that did not decide it."""
    for _, psi, theta, published in ANNOTATED.values():
        assert rate(psi, theta, *spread) == pytest.approx(published, abs=0.5)


def test_the_annotations_and_published_coefficients_give_published_rates(annotations, spread):
    """Rates at equal lengths to 0.8 points; and with φ tanh(d / s) added, the plain win rates to as much."""
    assert all(len(set(prompts)) == 805 for prompts, *_ in annotations.values())
    chances = difficulties(annotations, spread)
    for name, (phi, psi, theta, published) in ANNOTATED.items():
        _, preference, own, other = annotations[name]
        lengths = np.tanh((other - own) / (other - own).std(ddof=1))
        level = (chances * expit(theta + psi * GRID)).sum(1).mean()
        assert 100 * level == pytest.approx(published, abs=0.8), name
        plain = (chances * expit(theta + phi * lengths[:, None] + psi * GRID)).sum(1).mean()
        assert 100 * plain == pytest.approx(100 * preference.mean(), abs=0.9), name


def test_the_fit_agrees_with_the_published_rates_given_difficulties(annotations, spread):
    """With γ as the other two models' annotations say, each interval has the published rate in it.

    Without γ, and without the annotations that AlpacaEval adds, the rates are far too high: docs/judge.md says so.
    """
    for name, (*_, published) in ANNOTATED.items():
        prompts, preference, own, other = annotations[name]
        gamma = difficulties(annotations, spread, leave_out=name) @ GRID
        found = length_controlled(preference, own, other, prompts, gamma)
        assert 100 * found.low < published < 100 * found.high, name
        assert 100 * found.win_rate == pytest.approx(published, abs=5), name
        assert found.difficulty > 0.5
        alone = length_controlled(preference, own, other, prompts)
        assert 100 * alone.win_rate > published + 5
