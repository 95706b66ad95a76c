"""DPO-Positive: Pal et al. 2024, "Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive"."""

from __future__ import annotations

from typing import Annotated

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards

Penalty = Annotated[
    float, Allowed("the penalty per nat that the chosen completion falls below the reference", at_least=0)
]


@objective(rewards=logratio_rewards, beta=0.3)
def dpop(margin: StepColumn, chosen_logratios: StepColumn, beta: StepColumn, *, lam: Penalty = 50.0) -> StepColumn:
    """-log sigmoid(beta (Delta - lambda max(0, log ref(y_w) - log pi(y_w)))), per pair (pairs,); lambda = `lam`.

    Equal to DPO while the chosen completion is at least as likely as under the reference. The authors' repository has
    no code; formula, lambda and beta are the paper's. oxRL takes lambda 5. A tie (the first step) has no penalty.
    """
    return -logsigmoid(beta * (margin - lam * (-chosen_logratios).relu()))


method(
    "dpop",
    "DPO with a penalty where the chosen completion becomes less likely (DPO-Positive)",
    paper=Paper("Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive", "2402.13228", "arXiv 2024"),
    objective=dpop,
    aliases={"smaug": {}},
)
