"""BPO: Kim et al. 2025, "Preference Optimization by Estimating the Ratio of the Data Distribution"."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from torch.nn.functional import softplus

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.simpo import policy_rewards
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards

SCALE = 4.0  # of SBA: the gradient at R = 1 is then DPO's, 1/2, for every lam
Bregman = Annotated[
    Literal["sba", "ba", "lr", "kliep", "lsif"], Allowed("the function h whose Bregman divergence matches the ratios")
]
Power = Annotated[
    float, Allowed("lambda of sba and ba; the larger, the more a well ranked pair is still pushed", above=-1)
]
Least = Annotated[float, Allowed("R is at least this; no gradient below", at_least=1e-30, at_most=1)]
Most = Annotated[float, Allowed("R is at most this; no gradient above", at_least=1, at_most=1e30)]
Mix = Annotated[float, Allowed("the weight of this loss, the logistic one having the rest", above=0, at_most=1)]


def bregman(log_ratio: StepColumn, h: str, lam: float) -> StepColumn:
    """h'(R) R - h(R) - h'(1 / R) of R = exp(`log_ratio`), per pair, up to a constant; computed in log R.

    sba: (R^(lam+1) / (lam+1) - R^-lam / lam) / 4, at lam = 0 (R + log R) / 4. ba: R^(lam+1) - (lam+1) / lam R^-lam, at
    lam = 0 R + log R. lr: log(1 + R), DPO. kliep: R + log R. lsif: R^2 - 2 / R.
    """
    z = log_ratio
    match h:
        case "lr":
            return softplus(z)
        case "lsif":
            return (2 * z).exp() - 2 * (-z).exp()
        case "sba" if lam:
            return (((lam + 1) * z).exp() / (lam + 1) - (-lam * z).exp() / lam) / SCALE
        case "ba" if lam:
            return ((lam + 1) * z).exp() - (lam + 1) / lam * (-lam * z).exp()
        case _:
            return (z.exp() + z) / (SCALE if h == "sba" else 1.0)


def _mixed(logits: StepColumn, h: str, lam: float, r_min: float, r_max: float, weight: float) -> StepColumn:
    clipped = (-logits).clamp(math.log(r_min), math.log(r_max))
    return weight * bregman(clipped, h, lam) + (1 - weight) * softplus(-logits)


@objective(rewards=logratio_rewards, gamma_beta_ratio=0.0, normalisation="sum")
def bpo(
    linked_margin: StepColumn,
    beta: StepColumn,
    target_margin: StepColumn,
    *,
    h: Bregman = "sba",
    lam: Power = -0.5,
    r_min: Least = 1e-30,
    r_max: Most = 1e30,
    sba_weight: Mix = 1.0,
) -> StepColumn:
    """w B(R) + (1 - w) log(1 + R), R = exp(-beta (Delta - target_margin)) clipped in B, per pair; w = `sba_weight`.

    B is the loss of a Bregman divergence h: `sba` (R^(lam+1) / (lam+1) - R^-lam / lam) / 4, whose gradient at R = 1 is
    DPO's; `ba`, `kliep` and `lsif` of the paper's Table 2; `lr` is DPO. Losses may be negative, and for lam >= 0 have
    no lower bound: with lam > 0 a well ranked pair is pushed the more, so that R needs a lower bound, which the paper
    states and its listing omits. Its settings: HH lam 1.2, R >= 0.01; TL;DR beta 0.5, lam -0.5, R >= 0.025; Mistral-
    Base lam -0.5, R >= 0.003. That R is clamped, without gradient outside, and that the logistic part is not, are
    assumptions. The default bounds only keep powers finite. Of the methods called BPO this is the one of Bregman
    divergences: not the balanced one, -log sigmoid(beta min(a, -k c)).
    """
    return _mixed(beta * (linked_margin - target_margin), h, lam, r_min, r_max, sba_weight)


@objective(rewards=policy_rewards, beta=2.0)
def bpo_simpo(
    normalised_policy_margin: StepColumn,
    beta: StepColumn,
    target_margin: StepColumn,
    *,
    h: Bregman = "sba",
    lam: Power = -0.5,
    r_min: Least = 0.01,
    r_max: Most = 100.0,
    sba_weight: Mix = 0.3,
) -> StepColumn:
    """`bpo` of SimPO's ratio R = exp(-beta (u - target_margin)), per pair (pairs,); no reference is read.

    The paper mixes it with SimPO's own loss, `sba_weight` 0.3 (Mistral), 0.5 (Llama-3-Base) or 0.05 (Llama-3-Instruct),
    with lam -0.5 and R in [0.01, 30] or [0.01, 100].
    """
    return _mixed(beta * (normalised_policy_margin - target_margin), h, lam, r_min, r_max, sba_weight)


BPO = Paper("Preference Optimization by Estimating the Ratio of the Data Distribution", "2505.19601", "NeurIPS 2025")
method(
    "bpo",
    "DPO as the matching of likelihood ratios by a Bregman divergence (BPO, SBA; not balanced BPO)",
    paper=BPO,
    objective=bpo,
    aliases={"sba": {}},
    learning_rate="5e-7 (RMSprop, Pythia-2.8B, batch 64), 8e-7 (Mistral-7B-Base)",
)
method(
    "bpo_simpo",
    "SimPO's ratio matched by a Bregman divergence, mixed with SimPO",
    paper=BPO,
    objective=bpo_simpo,
)
