"""epsilon-DPO: Lee et al. 2025, "KL Penalty Control via Perturbation for Direct Preference Optimization"."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.dpo import dpo
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed, Beta
from scoreonce.pipeline.methods.pieces.registry import OnlyWith, calibration, derived, statistic
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import calibrated_rewards

Epsilon = Annotated[float, Allowed("the size of the perturbation of the logits", above=0, below=1)]
DeadBand = Annotated[float, Allowed("the smallest change of the log-prob difference that counts, in nats", at_least=0)]
Update = Annotated[Literal["code", "paper"], Allowed("how beta is updated from the decisions of a step")]
StepDtype = Annotated[Literal["fp32", "bf16"], Allowed("the precision in which a step is decided")]
InBfloat16 = Annotated[Tensor | None, OnlyWith("step_dtype", "bf16")]


@derived
def epsilon_step(
    policy_chosen_logps: StepColumn,
    policy_rejected_logps: StepColumn,
    policy_chosen_plus_logps: StepColumn,
    policy_rejected_plus_logps: StepColumn,
    policy_chosen_minus_logps: StepColumn,
    policy_rejected_minus_logps: StepColumn,
    policy_chosen_rounded_logps: InBfloat16 = None,
    policy_rejected_rounded_logps: InBfloat16 = None,
    *,
    dead_band: DeadBand = 0.0,
    step_dtype: StepDtype = "fp32",
) -> StepColumn:
    """+1 where the pair's log-prob difference rises along minus, policy, plus; -1 where it falls; else 0."""
    if policy_chosen_rounded_logps is not None and policy_rejected_rounded_logps is not None:
        policy_chosen_logps, policy_rejected_logps = policy_chosen_rounded_logps, policy_rejected_rounded_logps
    here = _difference(policy_chosen_logps, policy_rejected_logps, step_dtype)
    up = _difference(policy_chosen_plus_logps, policy_rejected_plus_logps, step_dtype) - here
    down = _difference(policy_chosen_minus_logps, policy_rejected_minus_logps, step_dtype) - here
    rising, falling = (up > dead_band) & (down < -dead_band), (up < -dead_band) & (down > dead_band)
    return rising.to(here.dtype) - falling.to(here.dtype)


def _difference(chosen: StepColumn, rejected: StepColumn, step_dtype: StepDtype) -> StepColumn:
    difference = chosen - rejected
    return difference.to(torch.bfloat16).to(difference.dtype) if step_dtype == "bf16" else difference


@statistic(initial={"epsilon_beta": "beta"}, after={})
def epsilon_update(
    epsilon_step: StepColumn,
    epsilon_beta: StepColumn,
    *,
    beta: Beta = 0.01,
    epsilon: Epsilon = 0.01,
    update: Update = "code",
) -> StepColumn:
    """The next step's beta, first `beta`: beta / (1 + epsilon mean step), or the mean of the pairs' betas (paper)."""
    if update == "paper":
        return (epsilon_beta / (1 + epsilon * epsilon_step)).mean()
    return epsilon_beta / (1 + epsilon * epsilon_step.mean())


@calibration("beta", batch_coupled=False, rewards=calibrated_rewards)
def perturbed_beta(epsilon_step: StepColumn, epsilon_beta: StepColumn, *, epsilon: Epsilon = 0.01) -> StepColumn:
    """epsilon_beta / (1 + epsilon step), step in {-1, 0, 1}, per pair, without gradient.

    plus and minus are the log-probs under the logits f +- epsilon (f - f_ref), the policies of weaker and stronger KL
    penalty. `epsilon_beta` is constant within an optimizer step and updated after it from all its pairs; evaluation
    does not update it. `update`: the paper's mean of betas is larger than the code's at order epsilon^2. Their
    `label_smoothing` has no effect; here it is DPO's.

    The official run decided in bfloat16, where a sum of hundreds of nats has no digits left for the effect of epsilon,
    so that most steps are 0. In float32 almost none is, and beta changes faster: use a smaller epsilon (0.005), a
    `dead_band`, or `step_dtype = "bf16"`, which rounds as their chain of operations does: both models' logits,
    (1 +- epsilon) f -+ epsilon f_ref, log-softmax, the sum over the completion, chosen minus rejected. The loss and its
    gradient are unchanged. With `full_vocab = "topk"` it rounds the stored log-probs instead of logits.
    """
    return epsilon_beta / (1 + epsilon * epsilon_step)


method(
    "epsilon_dpo",
    "DPO with a beta per pair, from perturbing the policy towards and away from the reference",
    paper=Paper("KL Penalty Control via Perturbation for Direct Preference Optimization", "2502.13177", "NeurIPS 2025"),
    objective=dpo,
    calibration=perturbed_beta,
    aliases={"eps_dpo": {}, "e_dpo": {}},
    synonyms={"beta_init": "beta", "eps": "epsilon"},
    learning_rate="7e-7 (Llama-3-8B-Instruct), 3e-7 (Mistral-7B-Instruct)",
)
