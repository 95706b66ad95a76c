"""SparsePO and MAPO: Christopoulou et al. 2025, "SparsePO: Controlling Preference Alignment via Sparse Token Masks"."""

from __future__ import annotations

from typing import Annotated

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed, Beta
from scoreonce.pipeline.methods.pieces.registry import derived, objective, rewards
from scoreonce.pipeline.methods.pieces.shapes import StepColumn

L1 = Annotated[float, Allowed("the weight of the masks' L1 norm", at_least=0)]


@rewards("chosen_rewards", "rejected_rewards")
def masked_rewards(
    policy_chosen_masked_logratios: StepColumn, policy_rejected_masked_logratios: StepColumn, *, beta: Beta
) -> tuple[StepColumn, StepColumn]:
    """beta times the masked log-ratio of each side."""
    return beta * policy_chosen_masked_logratios, beta * policy_rejected_masked_logratios


@derived
def masked_margin(
    policy_chosen_masked_logratios: StepColumn,
    policy_rejected_masked_logratios: StepColumn,
    policy_chosen_masked_forward_kl: StepColumn,
    policy_rejected_masked_forward_kl: StepColumn,
) -> StepColumn:
    """(u_w - u_l) - (D_w - D_l), D = -sum of the masked divergences."""
    return (
        policy_chosen_masked_logratios
        - policy_rejected_masked_logratios
        + policy_chosen_masked_forward_kl
        - policy_rejected_masked_forward_kl
    )


@objective(rewards=masked_rewards)
def mapo(masked_margin: StepColumn, beta: StepColumn) -> StepColumn:
    """-log sigmoid(beta ((u_w - u_l) - (D_w - D_l))), per pair (pairs,): masks fixed, from the reference's activations.

    u = sum_t m_t (log pi - log ref)(y_t), D = -sum_t m_t KL(ref || pi)_t. With all masks 1 it is TDPO1.
    """
    return -logsigmoid(beta * masked_margin)


@objective(rewards=masked_rewards)
def sparse_po(
    masked_margin: StepColumn,
    policy_reward_mask_l1: StepColumn,
    policy_kl_mask_l1: StepColumn,
    beta: StepColumn,
    *,
    l1_norm_param_u: L1 = 1e-3,
    l1_norm_param_d: L1 = 1e-3,
) -> StepColumn:
    """MAPO's loss, masks learnt, + l1_norm_param_u |m_u| + l1_norm_param_d |m_d| of both sides, per pair (pairs,)."""
    return (
        -logsigmoid(beta * masked_margin)
        + l1_norm_param_u * policy_reward_mask_l1
        + (l1_norm_param_d * policy_kl_mask_l1)
    )


SPARSE_PO = Paper(
    "SparsePO: Controlling Preference Alignment of LLMs via Sparse Token Masks", "2410.05102", "EMNLP Findings 2025"
)
method(
    "sparse_po",
    "Token-wise rewards and divergences under learnt sparse masks",
    paper=SPARSE_PO,
    objective=sparse_po,
    aliases={"sparsepo": {}},
    learning_rate="1e-6 (IMDb, beta 0.8), 1e-4 (TL;DR, beta 0.8), 5e-7 (HH, beta 0.1)",
)
method(
    "mapo",
    "Token-wise rewards and divergences under masks from the reference's activations",
    paper=SPARSE_PO,
    objective=mapo,
    learning_rate="1e-6 (HH, beta 0.1)",
)
