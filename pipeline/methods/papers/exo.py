"""EXO: Ji et al. 2024, "Towards Efficient Exact Optimization of Language Model Alignment"."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards

Smoothing = Annotated[float, Allowed("the target probability of the rejected completion", above=0, below=0.5)]
Target = Annotated[Literal["smoothed", "official"], Allowed("the target distribution")]
OFFICIAL = (0.0, -10.0)  # log q of chosen and rejected in the authors' code, not normalised


@objective(rewards=logratio_rewards)
def exo_pair(
    linked_margin: StepColumn, beta: StepColumn, *, label_smoothing: Smoothing = 1e-3, target: Target = "smoothed"
) -> StepColumn:
    """KL(p || q) = p (log p - log q_w) + (1 - p) (log(1 - p) - log q_l), p = sigmoid(beta Delta), per pair (pairs,).

    EXO-pref, Eq. 16. `target = "smoothed"`: q = (1 - e, e), e = `label_smoothing`, as TRL's `exo_pair` (which refuses
    e = 0). `"official"`: the authors' code, log q = (0, -10), which is only nearly normalised. beta is their
    beta_pi; they set 0.5. Not convex: the gradient also vanishes for badly misordered pairs. Delta as in `dpo`.
    """
    chosen, rejected = (math.log1p(-label_smoothing), math.log(label_smoothing)) if target == "smoothed" else OFFICIAL
    logits = beta * linked_margin
    return logits.sigmoid() * (logsigmoid(logits) - chosen) + (-logits).sigmoid() * (logsigmoid(-logits) - rejected)


def exo_list(
    logratios: Float[Tensor, "prompts completions"],
    scores: Float[Tensor, "prompts completions"],
    *,
    beta: float = 0.5,
    reward_temperature: float = 0.5,
) -> Float[Tensor, "prompts"]:
    """EXO-rw for K completions a prompt: KL(softmax(beta log-ratios) || softmax(scores / beta_r)), (prompts,).

    `logratios`, `scores` (prompts, K): log pi - log ref, summed, and rewards; `reward_temperature` is beta_r.
    """
    log_policy = (beta * logratios).log_softmax(-1)
    return (log_policy.exp() * (log_policy - (scores / reward_temperature).log_softmax(-1))).sum(-1)


method(
    "exo_pair",
    "Reverse KL between the policy's preference and the label's",
    paper=Paper("Towards Efficient Exact Optimization of Language Model Alignment", "2402.00856", "ICML 2024"),
    objective=exo_pair,
    aliases={"exo": {"beta": 0.5}},
    synonyms={"beta_pi": "beta"},
    learning_rate="1e-6",
)
