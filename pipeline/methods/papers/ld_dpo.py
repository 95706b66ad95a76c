"""LD-DPO: Liu et al. 2024, "Length Desensitization in Direct Preference Optimization"."""

from __future__ import annotations

from typing import Annotated

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards

TailWeight = Annotated[
    float, Allowed("the weight of tokens beyond the other completion's length; 1 is DPO", at_least=0, at_most=1)
]


@objective(rewards=logratio_rewards)
def ld_dpo(
    margin: StepColumn, prefix_margin: StepColumn, beta: StepColumn, *, ld_alpha: TailWeight = 0.5
) -> StepColumn:
    """-log sigmoid(beta (prefix_margin + alpha (margin - prefix_margin))), per pair (pairs,); alpha = `ld_alpha`.

    A completion's log-prob is its first L = min(|y_w|, |y_l|) tokens' plus alpha times the rest's, for the policy and
    the reference (as TRL's `ld_alpha`). Reads the sums over all tokens and, as `*_prefix_logps`, over the first L.
    The paper's range for alpha is 0.3 to 0.7. Rewards are logged without alpha.
    """
    return -logsigmoid(beta * (prefix_margin + ld_alpha * (margin - prefix_margin)))


method(
    "ld_dpo",
    "DPO with less weight on the tokens by which one completion is longer",
    paper=Paper("Length Desensitization in Direct Preference Optimization", "2409.06411", "arXiv 2024"),
    objective=ld_dpo,
    synonyms={"alpha": "ld_alpha"},
)
