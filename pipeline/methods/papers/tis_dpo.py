"""TIS-DPO: Liu et al. 2025, "TIS-DPO: Token-level Importance Sampling for DPO With Estimated Weights"."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards

DECIMALS = 2  # to which the code rounds a score
LARGEST_SCORE = 1.5  # nats, of scale
LEAST_LOG, LARGEST_LOG = -0.5, 1.5  # nats, of exp
Form = Annotated[
    Literal["rank", "scale", "exp"], Allowed("how a token's log plus / minus becomes its weight: see the formula")
]
Least = Annotated[float, Allowed("the weight of the token with the lowest score, of rank and scale", at_least=0)]
Most = Annotated[float, Allowed("the weight of the token with the highest score, of rank and scale", at_least=0)]
LastToken = Annotated[Literal["zero", "weighted"], Allowed("whether the last token, mostly EOS, has a weight")]


def token_weights(
    logratios: Float[Tensor, "tokens"], *, chosen: bool, form: str, least: float, most: float, last_token: str
) -> Float[Tensor, "tokens"]:
    """Weights of one completion's tokens, from its `logratios` log plus - log minus, in nats.

    The score s of a token is its log-ratio, negated in a rejected completion. rank: `least` to `most` by the rank of s,
    rounded to two decimals; equal scores have their mean rank, and a token alone 1. scale: `least` to `most` for s from
    -1.5 to 1.5. exp: e^clamp(log-ratio, -0.5, 1.5), in a rejected completion e^-clamp(...). The last token has weight 0
    for `last_token = "zero"`, and no part in the ranks.
    """
    scored = logratios[:-1] if last_token == "zero" else logratios
    scores = scored if chosen else -scored
    match form:
        case "exp":
            exponent = scored.clamp(LEAST_LOG, LARGEST_LOG)
            weights = (exponent if chosen else -exponent).exp()
        case "scale":
            share = (scores.clamp(-LARGEST_SCORE, LARGEST_SCORE) / LARGEST_SCORE + 1) / 2
            weights = least + (most - least) * share
        case _:
            _, places, counts = scores.round(decimals=DECIMALS).unique(return_inverse=True, return_counts=True)
            ranks = (counts.cumsum(0) - (counts + 1) / 2)[places]
            weights = least + (most - least) * ranks / (len(scores) - 1) if len(scores) > 1 else torch.ones_like(scores)
    return torch.cat([weights.to(logratios.dtype), logratios.new_zeros(len(logratios) - len(scored))])


@objective(rewards=logratio_rewards)
def tis_dpo(
    policy_chosen_weighted_logratios: StepColumn,
    policy_rejected_weighted_logratios: StepColumn,
    beta: StepColumn,
    *,
    token_weighting: Form = "rank",  # these reach the forward pass, which makes the columns
    weight_least: Least = 0.7,
    weight_most: Most = 1.3,
    last_token: LastToken = "zero",
) -> StepColumn:
    """-log sigmoid(beta (U_w - U_l)), U = sum_t w_t (log pi(y_t) - log ref(y_t)), per pair (pairs,).

    The weights come from two further scored models, `[reference.other.plus]`, trained by DPO, and
    `[reference.other.minus]`, trained by DPO with chosen and rejected swapped: s_t = log plus(y_t) - log minus(y_t),
    negated for the rejected completion. `rank`: from `weight_least` to `weight_most` by the rank of s in its completion
    (the README's); `scale`: linear in s from -1.5 to 1.5; `exp`: e^clamp(log plus / minus, -0.5, 1.5), and its inverse
    for the rejected one, as the paper is remembered to say. The code's own default makes every weight 1. EOS, or the
    last token of a cut completion, has weight 0 as in the code, `last_token = "weighted"` gives it one. Where the
    policy is the reference the loss is log 2; the code's variant with a KL term (`token_level`) is not here. Rewards
    are logged without weights.
    """
    return -logsigmoid(beta * (policy_chosen_weighted_logratios - policy_rejected_weighted_logratios))


method(
    "tis_dpo",
    "DPO with a weight for each token, from two further scored models",
    paper=Paper(
        "TIS-DPO: Token-level Importance Sampling for Direct Preference Optimization With Estimated Weights",
        "2410.04350",
        "ICLR 2025",
    ),
    objective=tis_dpo,
    learning_rate="5e-7 (RMSprop, batch 32)",
)
