"""WPO: Zhou et al. 2024, "WPO: Enhancing RLHF with Weighted Preference Optimization"."""

from __future__ import annotations

from typing import Annotated, Literal

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.divergences import LARGEST
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import derived, objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards

Clamp = Annotated[Literal["one", "none"], Allowed("whether the on-policy weight is at most 1")]


@derived
def on_policy_weight(
    policy_chosen_logps: StepColumn,
    policy_chosen_collision_logps: StepColumn,
    chosen_len: StepColumn,
    policy_rejected_logps: StepColumn,
    policy_rejected_collision_logps: StepColumn,
    rejected_len: StepColumn,
    *,
    clamp: Clamp = "one",
) -> StepColumn:
    """exp(s_w + s_l), at most 1, without gradient; s = mean over tokens of log pi(y_t) - log sum_v pi(v)^2."""
    chosen = (policy_chosen_logps - policy_chosen_collision_logps) / chosen_len
    rejected = (policy_rejected_logps - policy_rejected_collision_logps) / rejected_len
    return (chosen + rejected).detach().clamp(max=0.0 if clamp == "one" else LARGEST).exp()


@objective(rewards=logratio_rewards, beta=0.01)
def wpo(linked_margin: StepColumn, on_policy_weight: StepColumn, beta: StepColumn) -> StepColumn:
    """-w log sigmoid(beta Delta), per pair (pairs,), w the likelihood that the policy writes the pair itself.

    w = min(1, exp(s_w + s_l)), s the mean over a completion's tokens of log pi(y_t) - log sum_v pi(v)^2 (the "sampled
    alignment" of the authors' code); no gradient flows through it. The step's loss is the mean of these losses, not
    divided by the weights. TRL does not clamp (`clamp = "none"`), and up to 0.13 was off by one token in s.
    Reads `policy_*_collision_logps`, sums over the completion of log sum_v pi(v)^2. Delta as in `dpo`.
    """
    return -on_policy_weight * logsigmoid(beta * linked_margin)


method(
    "wpo",
    "DPO weighted by how likely the policy is to write the pair itself",
    paper=Paper("WPO: Enhancing RLHF with Weighted Preference Optimization", "2406.11827", "EMNLP 2024"),
    objective=wpo,
    learning_rate="1e-6 (Llama-3-8B), 5e-7 (Mistral-7B)",
)
