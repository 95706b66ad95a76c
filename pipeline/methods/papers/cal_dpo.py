"""Cal-DPO: Xiao et al. 2024, "Cal-DPO: Calibrated Direct Preference Optimization for Language Model Alignment"."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards


@objective(rewards=logratio_rewards, batch_coupled=True, beta=1e-3)
def cal_dpo(
    margin: StepColumn, chosen_logratios: StepColumn, rejected_logratios: StepColumn, beta: StepColumn
) -> StepColumn:
    """-log sigmoid(a - c) + (mean (a - 1 / (2 beta))^2 + mean (c + 1 / (2 beta))^2) / 2, per pair (pairs,).

    As the authors' code: no beta in the DPO term, and the squared errors averaged over the batch (here the optimizer
    step) and added to every pair; the step's mean loss is the same as with each pair's own. The paper may lack the
    factor 1/2.
    """
    error = (chosen_logratios - 0.5 / beta).square().mean() + (rejected_logratios + 0.5 / beta).square().mean()
    return -logsigmoid(margin) + error / 2


method(
    "cal_dpo",
    "DPO whose rewards are calibrated to +-1/2 by a squared error",
    paper=Paper(
        "Cal-DPO: Calibrated Direct Preference Optimization for Language Model Alignment", "2412.14516", "NeurIPS 2024"
    ),
    objective=cal_dpo,
    learning_rate="5e-7",
)
