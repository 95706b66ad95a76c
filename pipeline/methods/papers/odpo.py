"""ODPO: Amini et al. 2024, "Direct Preference Optimization with an Offset"."""

from __future__ import annotations

from typing import Annotated, Literal

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.papers.dpo import dpo
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed, Beta
from scoreonce.pipeline.methods.pieces.registry import calibration
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.schemas.errors import InputError

OffsetScale = Annotated[float, Allowed("how strongly the target margin follows the scores", at_least=0)]
Offset = Annotated[
    Literal["log_difference", "log_ratio"],
    Allowed("whether the margin follows log(r_w - r_l) or log(r_w / r_l) of the scores r"),
]


@calibration("target_margin", batch_coupled=False)
def score_offset(
    chosen_score: StepColumn,
    rejected_score: StepColumn,
    *,
    beta: Beta = 0.1,
    alpha: OffsetScale = 1.0,
    offset: Offset = "log_difference",
) -> StepColumn:
    """target_margin = (alpha / beta) log(r_w - r_l), per pair: with DPO, -log sigmoid(beta Delta - alpha log(...)).

    `offset = "log_ratio"`: log(r_w / r_l), for positive scores (the authors' option). A pair for which the
    logarithm is undefined is refused; the authors' code gives NaN.
    """
    ratio = offset == "log_ratio"
    inside = chosen_score / rejected_score if ratio else chosen_score - rejected_score
    usable = (inside > 0) & ((rejected_score > 0) if ratio else True)
    if not usable.all():
        raise InputError(
            f"ODPO takes the logarithm of {'r_w / r_l' if ratio else 'r_w - r_l'}, and that is not above 0 everywhere.",
            found=f"{int((~usable).sum())} of {len(usable)} pairs",
            where="chosen_score and rejected_score",
            fix="Leave out pairs whose chosen completion does not have the higher score: "
            'train.where = "chosen_score > rejected_score".',
        )
    return alpha / beta * inside.log()


method(
    "odpo",
    "DPO with a target margin per pair from the scores of its completions",
    paper=Paper("Direct Preference Optimization with an Offset", "2402.10571", "ACL Findings 2024"),
    objective=dpo,
    calibration=score_offset,
)
