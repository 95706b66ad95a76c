"""TDPO: Zeng et al. 2024, "Token-level Direct Preference Optimization"."""

from __future__ import annotations

from typing import Annotated

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed, Beta
from scoreonce.pipeline.methods.pieces.registry import objective, rewards
from scoreonce.pipeline.methods.pieces.shapes import StepColumn

KLWeight = Annotated[float, Allowed("the weight of the difference of the divergences", at_least=0)]


@rewards("chosen_rewards", "rejected_rewards")
def kl_rewards(
    chosen_logratios: StepColumn,
    rejected_logratios: StepColumn,
    policy_chosen_forward_kl: StepColumn,
    policy_rejected_forward_kl: StepColumn,
    *,
    beta: Beta,
) -> tuple[StepColumn, StepColumn]:
    """beta (log pi - log ref + sum_t KL(ref || pi)) of each side, as the authors log it."""
    return (
        beta * (chosen_logratios + policy_chosen_forward_kl),
        beta * (rejected_logratios + policy_rejected_forward_kl),
    )


@objective(rewards=kl_rewards)
def tdpo1(
    margin: StepColumn, policy_chosen_forward_kl: StepColumn, policy_rejected_forward_kl: StepColumn, beta: StepColumn
) -> StepColumn:
    """-log sigmoid(beta (Delta - (K_l - K_w))), per pair (pairs,); K = sum_t KL(ref || pi) over the completion, nats.

    The divergences carry gradient on both sides. The authors' repository trains this one unless `if_tdpo2` is set,
    which its README's TDPO2 command does not; they advise TDPO1 for small and TDPO2 for large learning rates.
    """
    return -logsigmoid(beta * (margin - (policy_rejected_forward_kl - policy_chosen_forward_kl)))


@objective(rewards=kl_rewards)
def tdpo2(
    margin: StepColumn,
    policy_chosen_forward_kl: StepColumn,
    policy_rejected_forward_kl: StepColumn,
    beta: StepColumn,
    *,
    alpha: KLWeight = 0.5,
) -> StepColumn:
    """-log sigmoid(beta (Delta - alpha (K_l - sg(K_w)))), per pair (pairs,); sg: no gradient through K_w."""
    gap = policy_rejected_forward_kl - policy_chosen_forward_kl.detach()
    return -logsigmoid(beta * (margin - alpha * gap))


TDPO = Paper("Token-level Direct Preference Optimization", "2404.11999", "ICML 2024")
method("tdpo1", "DPO with the difference of the token-wise divergences in the margin", paper=TDPO, objective=tdpo1)
method(
    "tdpo2",
    "TDPO1 with a weight, and no gradient through the chosen side's divergence",
    paper=TDPO,
    objective=tdpo2,
    aliases={"tdpo": {}},
)
