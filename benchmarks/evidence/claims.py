"""The claims, and the trainings that test each: a row of the table in docs/evidence.md is an entry of `CLAIMS`.

An arm is a way to train. Its candidates are the settings that it may choose among by true reward on the validation
split; every arm of a claim has as many. The learning rate is the method's own (`rates.py`) where none is named; other
settings that are not named are those of run.toml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rates import rate_of
from trials import Trial
from world import HALVES

BETAS = (0.1, 0.3, 1.0)
WIDE = (0.03, 0.1, 0.3, 1.0, 3.0)
PER_TOKEN = (2.5, 10.0, 40.0)  # of methods that divide log-probs by their length
FLIPS = (0.0, 0.2, 0.4)
TIMES = (1, 4, 16)  # DPO's learning rate
Settings = dict[str, Any]
Arms = Mapping[str, list[Settings]]


class Planned(NamedTuple):
    """A trial of a claim."""

    arm: str
    candidate: int
    trial: Trial


@dataclass(frozen=True)
class Claim:
    """What a paper says, and the arms that are compared under each share of flipped labels, on each part."""

    title: str
    says: str
    arms: Callable[[float], Arms]  # of the share of flipped labels, which some methods are told
    flips: tuple[float, ...] = (0.0,)
    parts: tuple[str, ...] = ("all",)
    own_rates: bool = False  # whether the learning rates are what is compared
    decides: bool = True  # whether the comparisons are of a claim, or only shown

    def planned(self, seeds: int) -> Iterator[Planned]:
        """Every trial, the first seed's first: whoever stops early has all arms with fewer seeds."""
        for seed in range(seeds):
            for flips in self.flips:
                for arm, candidates in self.arms(flips).items():
                    for number, settings in enumerate(candidates):
                        for part in self.parts:
                            half = {"epochs": 2} if part in HALVES else {}  # as many steps from half of the pairs
                            rate = settings.get("learning_rate") or rate_of(settings)
                            known = tuple(sorted({**settings, **half, "learning_rate": rate}.items()))
                            yield Planned(arm, number, Trial(known, flips, part, seed))

    @property
    def middle(self) -> Iterator[Settings]:
        """The candidate of each arm in the middle of its grid, which the search for a learning rate takes."""
        for flips in () if self.own_rates else self.flips:
            for candidates in self.arms(flips).values():
                yield candidates[len(candidates) // 2]


def over(name: str, values: tuple[float, ...], **settings: Any) -> list[Settings]:
    """Settings with each value of one of them."""
    return [{**settings, name: value} for value in values]


def _beta_noise(flips: float) -> Arms:
    return {
        "DPO": over("beta", BETAS, method="dpo"),
        "beta only": over("beta", BETAS, method="beta_dpo", keep=1.0),
        "filter only": over("beta", BETAS, method="beta_dpo", a=0.0),
        "both (β-DPO)": over("beta", BETAS, method="beta_dpo"),
        "both, instance level": over("beta", BETAS, method="beta_dpo", calibration="pair_beta"),
    }


def _alpha(flips: float) -> Arms:
    ratio = {"gamma_beta_ratio": 0.6}
    alpha = {"method": "alpha_dpo", **ratio}
    return {
        "DPO": over("beta", BETAS, method="dpo"),
        "SimPO": over("beta", PER_TOKEN, method="simpo", **ratio),
        "α = 0": over("beta", PER_TOKEN, alpha=0.0, **alpha),
        "α-DPO": over("beta", PER_TOKEN, **alpha),
        "z of the batch (paper)": over("beta", PER_TOKEN, z_score="batch", **alpha),
        "α not times β (paper)": over("beta", PER_TOKEN, alpha_scale="paper", **alpha),
        "not standardised": over("beta", PER_TOKEN, calibration="raw_margin", **alpha),
        "with gradient": over("beta", PER_TOKEN, method="simpo", objective="live_margin", **ratio),
    }


def _epsilon(flips: float) -> Arms:
    return {
        "DPO": over("beta", WIDE, method="dpo"),
        "ε-DPO": over("beta", WIDE, method="epsilon_dpo"),
    }


def _decisions(flips: float) -> Arms:
    return {
        **_epsilon(flips),
        "ε-DPO, decided in bfloat16": over("beta", WIDE, method="epsilon_dpo", step_dtype="bf16"),
        "ε-DPO, dead band of 0.01 nats": over("beta", WIDE, method="epsilon_dpo", dead_band=0.01),
    }


def _high_rates(flips: float) -> Arms:
    methods = {"DPO": "dpo", "MinorDPO": "minor_dpo", "DPOP": "dpop", "Cal-DPO": "cal_dpo"}
    return {arm: over("learning_rate", _rates(), method=method, beta=0.1) for arm, method in methods.items()}


def _rates() -> tuple[float, ...]:
    return tuple(times * rate_of({"method": "dpo"}) for times in TIMES)


def _sft(flips: float) -> Arms:
    return {
        "SFT": over("learning_rate", _rates(), method="sft"),
        "MinorSFT": over("learning_rate", _rates(), method="minor_sft", beta=0.1),
    }


def _robust(flips: float) -> Arms:
    smoothing = {"label_smoothing": flips} if flips else {}  # with none, both are DPO
    return {
        "DPO": over("beta", BETAS, method="dpo"),
        "rDPO": over("beta", BETAS, method="robust" if flips else "dpo", **smoothing),
        "cDPO": over("beta", BETAS, method="dpo", **smoothing),
        "IPO": over("beta", BETAS, method="ipo", normalisation="sum"),
        "Dr. DPO": over("beta", BETAS, method="dr_dpo"),
        "ROPO": over("beta", BETAS, method="ropo"),
    }


def _frontier(flips: float) -> Arms:
    """All that was trained on true labels for other claims, and some more."""
    noise, alpha, epsilon = _beta_noise(flips), _alpha(flips), _epsilon(flips)
    more = {"χPO": "chi_po", "hinge": "hinge", "APO-zero": "apo_zero", "EXO": "exo_pair"}
    return {
        **noise,
        "SimPO": alpha["SimPO"],
        "α-DPO": alpha["α-DPO"],
        "ε-DPO": epsilon["ε-DPO"][1:4],
        **{arm: _robust(flips)[arm] for arm in ("IPO", "Dr. DPO", "ROPO")},
        "MinorDPO": over("beta", BETAS, method="minor_dpo"),
        **{arm: over("beta", BETAS, method=method) for arm, method in more.items()},
    }


CLAIMS = {
    "beta_gap": Claim(
        "A low gap wants a low β, a high gap a high β",
        "β-DPO, Fig. 1",
        lambda flips: {f"β {beta:g}": [{"method": "dpo", "beta": beta}] for beta in WIDE},
        parts=HALVES,
    ),
    "beta_noise": Claim(
        "β per batch and filtering help under noise; batch level beats instance level", "β-DPO", _beta_noise, FLIPS
    ),
    "beta_outliers": Claim(
        "β per batch and filtering help against near ties and outliers",
        "β-DPO",
        _beta_noise,
        parts=("near ties", "outliers"),
    ),
    "alpha_margin": Claim("An adaptive margin beats DPO and SimPO, and each ablation is worse", "α-DPO", _alpha),
    "epsilon_frontier": Claim("A better trade-off of reward and KL than DPO over β", "ε-DPO", _epsilon),
    "epsilon_decisions": Claim("It owes its effect to rounding in bfloat16", "asked of ε-DPO", _decisions),
    "learning_rates": Claim(
        "Robust at high learning rates, with less deviation", "MinorDPO", _high_rates, own_rates=True
    ),
    "sft_deviation": Claim("Less deviation than SFT at equal quality", "MinorSFT", _sft, own_rates=True),
    "known_flips": Claim("Robust to flipped labels", "rDPO, cDPO, IPO, Dr. DPO, ROPO", _robust, FLIPS),
    "frontier": Claim("Which method moves least for the same reward", "each", _frontier, decides=False),
}
