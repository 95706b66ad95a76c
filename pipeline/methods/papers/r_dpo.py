"""R-DPO: Park et al. 2024, "Disentangling Length from Quality in Direct Preference Optimization"."""

from __future__ import annotations

from typing import Annotated

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.dpo import dpo
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed, Beta
from scoreonce.pipeline.methods.pieces.registry import calibration
from scoreonce.pipeline.methods.pieces.shapes import StepColumn

LengthPenalty = Annotated[float, Allowed("the reward subtracted per token", at_least=0)]


@calibration("target_margin", batch_coupled=False)
def length_penalty(
    chosen_len: StepColumn, rejected_len: StepColumn, *, beta: Beta = 0.1, alpha: LengthPenalty = 0.05
) -> StepColumn:
    """target_margin = -(alpha / beta) (|y_w| - |y_l|), per pair.

    With DPO that is -log sigmoid(beta Delta + alpha (|y_w| - |y_l|)).
    A longer chosen completion gains less, so that length alone is not rewarded. The sign is that of the paper's
    penalised reward and of SimPO's table of methods; alpha-DPO's repository and oxRL have the opposite one.
    """
    return -alpha / beta * (chosen_len - rejected_len)


method(
    "r_dpo",
    "DPO with a penalty on length in the reward",
    paper=Paper(
        "Disentangling Length from Quality in Direct Preference Optimization", "2403.19159", "ACL Findings 2024"
    ),
    objective=dpo,
    calibration=length_penalty,
)
