"""DPO: Rafailov et al. 2023, "Direct Preference Optimization"; with label smoothing it is Mitchell's cDPO (2023)."""

from __future__ import annotations

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import LabelSmoothing
from scoreonce.pipeline.methods.pieces.logistic import smoothed_logistic
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards


@objective(rewards=logratio_rewards, gamma_beta_ratio=0.0, normalisation="sum")
def dpo(
    linked_margin: StepColumn, beta: StepColumn, target_margin: StepColumn, *, label_smoothing: LabelSmoothing = 0.0
) -> StepColumn:
    """-(1 - e) log sigmoid(h) - e log sigmoid(-h), h = beta (Delta - target_margin), per pair (pairs,).

    DPO Eq. 7 for e = `label_smoothing` = 0 and no target margin; cDPO for e > 0, the assumed share of flipped labels.
    Delta = `margin`, chosen minus rejected log-ratio, summed over the completion, in nats; under another `divergence`
    f'(pi / ref) stands in the place of a log-ratio. TRL ignores label smoothing for its `sigmoid` loss from 1.0 on.
    """
    logits = beta * (linked_margin - target_margin)
    return smoothed_logistic(logits, label_smoothing)


@objective(rewards=logratio_rewards, gamma_beta_ratio=0.0)
def dpo_norm(
    normalised_margin: StepColumn, beta: StepColumn, target_margin: StepColumn, *, label_smoothing: LabelSmoothing = 0.0
) -> StepColumn:
    """-(1 - e) log sigmoid(h) - e log sigmoid(-h), h = beta (Delta - target_margin), per pair; e: `label_smoothing`.

    Delta is in nats per token, each side's log-ratio divided by its own length first: Tülu 3's length-normalised DPO,
    TRL's `sigmoid_norm`. Its beta is larger than DPO's by about a completion's length: Tülu 3 and OLMo 3 take 5.
    Rewards are logged as sums.
    """
    return smoothed_logistic(beta * (normalised_margin - target_margin), label_smoothing)


DPO = Paper(
    "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", "2305.18290", "NeurIPS 2023"
)
method(
    "dpo",
    "Direct preference optimisation; cDPO with label_smoothing > 0",
    paper=DPO,
    objective=dpo,
    aliases={"sigmoid": {}, "cdpo": {"label_smoothing": 0.1}},
    synonyms={"f_divergence_type": "divergence"},
    learning_rate="5e-7 to 1e-6 (7–9B instruct models; beta 0.01 is typical there)",
)
method(
    "dpo_norm",
    "DPO on log-ratios per token",
    paper=Paper("Tülu 3: Pushing Frontiers in Open Language Model Post-Training", "2411.15124", "arXiv 2024"),
    objective=dpo_norm,
    defaults={"beta": 5.0},
    aliases={"sigmoid_norm": {"beta": 0.1}},
    synonyms={"f_divergence_type": "divergence"},
    learning_rate="5e-7 (Tülu 3, 8B), 2e-7 (Tülu 3, 70B), 8e-8 and 7e-8 (OLMo 3 Think, 7B and 32B), 1e-6 (OLMo 3 "
    "Instruct, 7B); beta 5, batch 128",
)
