"""Hinge on the DPO margin: SLiC's calibration loss (Zhao et al. 2023) as normalised by RSO (Liu et al. 2024)."""

from __future__ import annotations

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards


@objective(rewards=logratio_rewards)
def hinge(linked_margin: StepColumn, beta: StepColumn) -> StepColumn:
    """max(0, 1 - beta Delta), per pair (pairs,): RSO's hinge-norm loss, TRL's `hinge`; Delta in summed nats.

    SLiC-HF itself has no reference but a regularising term: see `slic`. A pair with beta Delta >= 1 has no
    gradient. Delta as in `dpo`.
    """
    return (1 - beta * linked_margin).relu()


method(
    "hinge",
    "Hinge on the log-ratio margin (SLiC-norm)",
    paper=Paper("Statistical Rejection Sampling Improves Preference Optimization", "2309.06657", "ICLR 2024"),
    objective=hinge,
    aliases={"slic_norm": {}},
)
