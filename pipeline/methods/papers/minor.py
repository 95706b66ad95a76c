"""MinorDPO and MinorSFT: Xie et al. 2024 (two papers; no official code)."""

from __future__ import annotations

from typing import Annotated, Literal

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed, Beta
from scoreonce.pipeline.methods.pieces.registry import objective, rewards
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards

Tie = Annotated[Literal["clamp", "relu"], Allowed("whether a rejected log-ratio of exactly 0 has a gradient")]


@objective(rewards=logratio_rewards)
def minor_dpo(
    chosen_logratios: StepColumn, rejected_logratios: StepColumn, beta: StepColumn, *, tie: Tie = "clamp"
) -> StepColumn:
    """-log sigmoid(beta (a - max(0, c))), per pair (pairs,); a, c the summed log-ratios of chosen and rejected, nats.

    Once the rejected completion is less likely than under the reference (c < 0) nothing pushes it down further.
    The papers leave open what happens at c = 0, which is every pair of the first step: `tie = "clamp"` has the
    gradient of DPO there (torch.clamp, the only public code), `"relu"` moves the chosen side alone.
    """
    penalty = rejected_logratios.clamp(min=0) if tie == "clamp" else rejected_logratios.relu()
    return -logsigmoid(beta * (chosen_logratios - penalty))


@rewards("chosen_rewards")
def chosen_logratio_rewards(chosen_logratios: StepColumn, *, beta: Beta) -> StepColumn:
    """beta * (log pi - log ref) of the chosen completion, summed."""
    return beta * chosen_logratios


@objective(rewards=chosen_logratio_rewards)
def minor_sft(chosen_logratios: StepColumn, chosen_len: StepColumn, beta: StepColumn) -> StepColumn:
    """-(2 / (m beta)) log sigmoid(beta (log pi(y_w) - log ref(y_w))), per pair (pairs,); m = `chosen_len`.

    The paper states the gradient, -(2 / m) sigmoid(-beta log-ratio) grad log pi; this is its potential. At policy =
    reference the gradient is that of -log pi / m, and it fades as the policy moves away. torchrl's loss of this name
    lacks the factor 2 / (m beta). Reads the chosen side alone.
    """
    return -2 / (chosen_len * beta) * logsigmoid(beta * chosen_logratios)


method(
    "minor_dpo",
    "DPO that stops pushing a rejected completion below the reference",
    paper=Paper("Minor DPO reject penalty to increase training robustness", "2408.09834", "arXiv 2024"),
    objective=minor_dpo,
)
method(
    "minor_sft",
    "Supervised fine-tuning that fades as the policy leaves the reference",
    paper=Paper(
        "Minor SFT loss for LLM fine-tune to increase performance and reduce model deviation",
        "2408.10642",
        "arXiv 2024",
    ),
    objective=minor_sft,
)
