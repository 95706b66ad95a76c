"""H-DPO: Omura et al. 2024, "Entropy Controllable Direct Preference Optimization"."""

from __future__ import annotations

from typing import Annotated

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed, Beta
from scoreonce.pipeline.methods.pieces.registry import objective, rewards
from scoreonce.pipeline.methods.pieces.shapes import StepColumn

Entropy = Annotated[float, Allowed("the coefficient of the policy's entropy; below 1 is sharper, 1 is DPO", above=0)]


@rewards("chosen_rewards", "rejected_rewards")
def entropy_rewards(
    policy_chosen_logps: StepColumn,
    policy_rejected_logps: StepColumn,
    ref_chosen_logps: StepColumn,
    ref_rejected_logps: StepColumn,
    *,
    beta: Beta,
    alpha: Entropy,
) -> tuple[StepColumn, StepColumn]:
    """beta (alpha log pi - log ref) of each side, summed; 0 at the reference only for alpha = 1."""
    return (
        beta * (alpha * policy_chosen_logps - ref_chosen_logps),
        beta * (alpha * policy_rejected_logps - ref_rejected_logps),
    )


@objective(rewards=entropy_rewards)
def h_dpo(
    policy_chosen_logps: StepColumn,
    policy_rejected_logps: StepColumn,
    ref_chosen_logps: StepColumn,
    ref_rejected_logps: StepColumn,
    beta: StepColumn,
    *,
    alpha: Entropy = 0.9,
) -> StepColumn:
    """-log sigmoid(beta (alpha (log pi(y_w) - log pi(y_l)) - (log ref(y_w) - log ref(y_l)))), per pair (pairs,).

    Log-probs are sums, in nats. It follows from maximising the reward minus beta (alpha E log pi - E log ref): an
    alpha < 1 leads to a sharper policy, alpha = 1 is DPO, alpha > 1 to a flatter one. **Its first step is not log 2**:
    where the policy is the reference the logit is -(1 - alpha) beta (log ref(y_w) - log ref(y_l)), mostly the
    difference of lengths, and the first step pushes by that. `train` checks the policy's log-probs before it, which
    hold for any alpha. The paper's code was not found: the default of alpha is not the authors'.
    """
    policy, reference = policy_chosen_logps - policy_rejected_logps, ref_chosen_logps - ref_rejected_logps
    return -logsigmoid(beta * (alpha * policy - reference))


method(
    "h_dpo",
    "DPO with a coefficient on the policy's entropy; its first loss is not log 2",
    paper=Paper("Entropy Controllable Direct Preference Optimization", "2411.07595", "arXiv 2024"),
    objective=h_dpo,
)
