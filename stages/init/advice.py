"""A learning rate for a method and a model's size, and β with it, each with its source.

No rule of ours: of the recipes that are published for a method, the one whose model is nearest in size is taken, and
the comment says for which model it was made, and whether that is of about this size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scoreonce.stages.run_text import toml

SAME_SIZE = 2.0  # up to this factor a recipe's model counts as of the same size, which is a convention of this file
LORA_FACTOR = 10
LORA_SOURCE = "LoRA's best rate is about 10 times that of all weights (Schulman et al. 2025, LoRA Without Regret)"


@dataclass(frozen=True)
class Recipe:
    """What a source trained, and with what. `billions` of parameters; None where the source here does not say it."""

    method: str
    model: str
    billions: float | None
    learning_rate: float
    source: str
    settings: Mapping[str, float] = field(default_factory=dict)
    lora: bool = False


@dataclass(frozen=True)
class Advice:
    """A learning rate, hyperparameters of a recipe, and why each."""

    learning_rate: float
    why: str
    settings: Mapping[str, float]
    settings_why: str
    smaller: bool = False  # whether the model is much smaller than the recipe's

    def tried(self) -> tuple[list[float], str]:
        """Learning rates to compare, and why: a choice of this file, which no source has."""
        factors, why = ((1 / 3, 1, 3), "the source's, a third of it, and three times it")
        if self.smaller:
            factors, why = ((1, 10, 100), "the source's, and two decades above for a model so much smaller, a guess")
        return [float(f"{factor * self.learning_rate:.2g}") for factor in factors], why


def _alpha(beta: float, ratio: float, alpha: float) -> dict[str, float]:
    return {"beta": beta, "gamma_beta_ratio": ratio, "alpha": alpha}


def _shared(beta: float, ratio: float, tau: float) -> dict[str, float]:
    return {"beta": beta, "gamma_beta_ratio": ratio, "tau": tau}


_HANDBOOK = "alignment-handbook"
_SIMPO, _REPO, _WPO = "SimPO's README", "RePO's configs", "WPO's configs"
_ALPHA, _EPSILON = "α-DPO's configs", "ε-DPO's configs"
_SIMPER, _AMAPO, _GAMMA = "SimPER's configs", "AMaPO's configs", "γ-PO's configs"
_TULU, _OLMO = "Tülu 3, open-instruct's docs/tulu3.md", "OLMo 3's report, A.6.2"
RECIPES = (
    Recipe("dpo", "Qwen2-0.5B-Instruct", 0.5, 5e-7, "TRL 1.16's scripts/dpo.py", {"beta": 0.1}),
    Recipe("dpo", "SmolLM2-1.7B", 1.7, 1e-6, f"{_HANDBOOK}, recipes/smollm2/dpo", {"beta": 0.5}),
    Recipe("dpo", "Pythia-2.8B", 2.8, 1e-6, "DPO's paper, appendix B, with RMSprop", {"beta": 0.1}),
    Recipe("dpo", "Zephyr-7B", 7.2, 5e-7, f"{_HANDBOOK}, recipes/zephyr-7b-beta/dpo", {"beta": 0.01}),
    Recipe("dpo", "Qwen2-0.5B-Instruct", 0.5, 5e-6, "TRL 1.16's scripts/dpo.py, rank 32", {"beta": 0.1}, lora=True),
    Recipe("dpo", "Zephyr-7B", 7.2, 5e-6, f"{_HANDBOOK}, zephyr-7b-beta, QLoRA of rank 16", {"beta": 0.01}, lora=True),
    Recipe("dpo_norm", "OLMo 3 7B Instruct", 7.3, 1e-6, _OLMO, {"beta": 5.0}),
    Recipe("dpo_norm", "OLMo 3 7B Think", 7.3, 8e-8, _OLMO, {"beta": 5.0}),
    Recipe("dpo_norm", "Llama-3.1-Tulu-3-8B", 8.0, 5e-7, _TULU, {"beta": 5.0}),
    Recipe("dpo_norm", "OLMo 3 32B Think", 32.2, 7e-8, _OLMO, {"beta": 5.0}),
    Recipe("dpo_norm", "Llama-3.1-Tulu-3-70B", 70.6, 2e-7, _TULU, {"beta": 5.0}),
    Recipe("dpo_norm", "Llama-3.1-Tulu-3-405B", 405.9, 2e-7, _TULU, {"beta": 5.0}),
    Recipe("beta_dpo", "Pythia-2.8B", 2.8, 5e-7, "β-DPO's code, with RMSprop", {"beta": 0.1}),
    Recipe("simpo", "Mistral-7B-Instruct", 7.2, 5e-7, _SIMPO, {"beta": 2.5, "gamma_beta_ratio": 0.1}),
    Recipe("simpo", "Mistral-7B-Base", 7.2, 3e-7, _SIMPO, {"beta": 2.0, "gamma_beta_ratio": 0.8}),
    Recipe("simpo", "Llama-3-8B-Instruct", 8.0, 1e-6, _SIMPO, {"beta": 2.5, "gamma_beta_ratio": 0.55}),
    Recipe("simpo", "Llama-3-8B-Base", 8.0, 6e-7, _SIMPO, {"beta": 2.0, "gamma_beta_ratio": 0.5}),
    Recipe("simpo", "Gemma-2-9B-it", 9.2, 8e-7, _SIMPO, {"beta": 10.0, "gamma_beta_ratio": 0.5}),
    Recipe("alpha_dpo", "Mistral-7B-Instruct", 7.2, 6e-7, _ALPHA, _alpha(2.5, 0.15, 0.05)),
    Recipe("alpha_dpo", "Llama-3-8B-Instruct", 8.0, 1e-6, _ALPHA, _alpha(2.5, 0.6, 0.2)),
    Recipe("alpha_dpo", "Gemma-2-9B-it", 9.2, 8e-7, _ALPHA, _alpha(10.0, 0.4, 0.05)),
    Recipe("epsilon_dpo", "Mistral-7B-Instruct", 7.2, 3e-7, _EPSILON, {"beta": 0.01, "epsilon": 0.01}),
    Recipe("epsilon_dpo", "Llama-3-8B-Instruct", 8.0, 7e-7, _EPSILON, {"beta": 0.01, "epsilon": 0.01}),
    Recipe("wpo", "Mistral-7B", 7.2, 5e-7, _WPO, {"beta": 0.01}),
    Recipe("wpo", "Llama-3-8B-Instruct", 8.0, 1e-6, _WPO, {"beta": 0.01}),
    Recipe("sppo", "", None, 5e-7, "SPPO's paper, with RMSprop", {"beta": 0.001}),
    Recipe("sppo_hard", "", None, 5e-7, "SPPO's paper, with RMSprop", {"beta": 0.001}),
    Recipe("cal_dpo", "", None, 5e-7, "Cal-DPO's code", {"beta": 0.001}),
    Recipe("apo_zero", "SmolLM3-3B", 3.1, 1e-6, f"{_HANDBOOK}, recipes/smollm3/dpo", {"beta": 0.05}),
    Recipe("apo_zero", "", None, 2e-7, "APO's paper", {"beta": 0.1}),
    Recipe("apo_down", "", None, 2e-7, "APO's paper", {"beta": 0.1}),
    Recipe("exo_pair", "", None, 1e-6, "EXO's code", {"beta": 0.5}),
    Recipe("nca_pair", "", None, 5e-6, "NCA's code, a QLoRA", {"beta": 0.01}, lora=True),
    Recipe("infonca", "", None, 5e-6, "NCA's code, a QLoRA", {"beta": 0.01}, lora=True),
    Recipe("repo", "Mistral-7B", 7.2, 6e-7, _REPO, {"gamma_beta_ratio": 0.4}),
    Recipe("repo", "Llama-3-8B", 8.0, 1e-6, _REPO, {"gamma_beta_ratio": 0.6}),
    Recipe("repo", "Gemma-2-9B", 9.2, 8e-7, _REPO, {"gamma_beta_ratio": 0.4}),
    Recipe("rso", "T5-XXL", 11.0, 1e-5, "RSO's paper, with Adafactor", {"beta": 0.05}),
    Recipe("rso_hinge", "T5-XXL", 11.0, 1e-5, "RSO's paper, with Adafactor", {"beta": 0.05}),
    Recipe("sparse_po", "", None, 5e-7, "SparsePO's paper, on HH", {"beta": 0.1}),
    Recipe("mapo", "", None, 1e-6, "SparsePO's paper, on HH", {"beta": 0.1}),
    Recipe("alpha_po", "Mistral-7B-Instruct", 7.2, 7e-7, "TRL's paper index", _alpha(2.5, 0.1, 0.25)),
    Recipe("simper", "Mistral-7B-Base", 7.2, 3e-7, _SIMPER),
    Recipe("simper", "Mistral-7B-Instruct", 7.2, 5e-7, _SIMPER),
    Recipe("simper", "Llama-3-8B-Base", 8.0, 6e-7, _SIMPER),
    Recipe("simper", "Llama-3-8B-Instruct", 8.0, 1e-6, _SIMPER),
    Recipe("tis_dpo", "", None, 5e-7, "TIS-DPO's code, with RMSprop", {"beta": 0.1}),
    Recipe("dr_dpo", "Pythia-2.8B", 2.8, 5e-7, "Dr. DPO's code, with RMSprop", {"beta": 0.1, "beta_prime": 1.0}),
    Recipe("dpo_shift", "", None, 5e-7, "DPO-Shift's recipes", {"beta": 0.01, "lam": 0.95}),
    Recipe("kl_dpo", "", None, 5e-7, "KLDPO's README", {"beta": 0.01, "tau": 0.05}),
    Recipe("amapo", "Mistral-7B-Base", 7.2, 4e-7, _AMAPO, {"beta": 2.0}),
    Recipe("amapo", "Mistral-7B-Instruct", 7.2, 6e-7, _AMAPO, {"beta": 2.0}),
    Recipe("amapo", "Llama-3-8B-Base", 8.0, 6e-7, _AMAPO, {"beta": 2.5}),
    Recipe("amapo", "Llama-3-8B-Instruct", 8.0, 1e-6, _AMAPO, {"beta": 3.0}),
    Recipe("gamma_simpo", "Mistral-7B-Instruct", 7.2, 6e-7, _GAMMA, _shared(2.5, 0.15, 10.0)),
    Recipe("gamma_simpo", "Qwen2.5-7B", 7.6, 1e-6, _GAMMA, _shared(10.0, 0.3, 3.0)),
    Recipe("gamma_simpo", "Llama-3-8B-Instruct", 8.0, 1e-6, _GAMMA, _shared(10.0, 0.4, 10.0)),
    Recipe("gamma_simpo", "Gemma-2-9B-it", 9.2, 8e-7, _GAMMA, _shared(10.0, 0.5, 20.0)),
    Recipe("bpo", "Pythia-2.8B", 2.8, 5e-7, "BPO's paper, on HH", {"beta": 0.1, "lam": 1.2, "r_min": 0.01}),
    Recipe("bpo", "Mistral-7B-Base", 7.2, 8e-7, "BPO's paper", {"lam": -0.5, "r_min": 0.003}),
)


def advise(method: str, parameters: int, *, lora: bool) -> Advice:
    """The learning rate for a method and a model of `parameters` weights, of which all or LoRA's matrices are trained.

    Without a recipe of the method with LoRA, ten times that for all weights; without any, DPO's.
    """
    own = [recipe for recipe in RECIPES if recipe.method == method]
    recipes = own or [recipe for recipe in RECIPES if recipe.method == "dpo"]
    alike = [recipe for recipe in recipes if recipe.lora == lora]
    factor = LORA_FACTOR if lora and not alike else 1
    # NCA's recipe is a QLoRA: for all weights there is DPO's alone.
    if not alike and not lora:
        own, alike = [], [recipe for recipe in RECIPES if recipe.method == "dpo" and not recipe.lora]
    return _told(method, alike or recipes, parameters / 1e9, borrowed=not own, factor=factor)


def _told(method: str, recipes: Sequence[Recipe], billions: float, *, borrowed: bool, factor: int) -> Advice:
    """The advice of the recipe whose model is nearest in size; one of unknown size is the last resort."""
    recipe = min(recipes, key=lambda recipe: _times(recipe, billions))
    unsized = recipe.billions is None
    model = f"{recipe.source}, which does not say here for what size" if unsized else f"{recipe.model}: {recipe.source}"
    far = not unsized and _times(recipe, billions) > SAME_SIZE
    others = [each for each in recipes if each.billions == recipe.billions and each is not recipe and not unsized]
    parts = [
        f"no source for {method} is known here, this is DPO's" if borrowed else "",
        f"no source for {_size(billions)} parameters is known here, the nearest is {model}" if far else model,
        *(f"{toml(each.learning_rate)} for {each.model}" for each in others),
        f"{toml(recipe.learning_rate)} there for all weights; {LORA_SOURCE}" if factor > 1 else "",
    ]
    rate = float(f"{recipe.learning_rate * factor:g}")
    return Advice(
        rate,
        "; ".join(part for part in parts if part),
        {} if borrowed else recipe.settings,
        model,
        far and (recipe.billions or 0) > billions,
    )


def _times(recipe: Recipe, billions: float) -> float:
    """How many times larger or smaller the recipe's model is."""
    return math.inf if recipe.billions is None else math.exp(abs(math.log(recipe.billions / billions)))


def _size(billions: float) -> str:
    return f"{billions:.2g} B" if billions >= 0.01 else f"{1000 * billions:.2g} M"
