"""SPPO: Wu et al. 2024, "Self-Play Preference Optimization for Language Model Alignment"."""

from __future__ import annotations

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards


@objective(rewards=logratio_rewards, beta=1e-3)
def sppo(
    chosen_logratios: StepColumn,
    rejected_logratios: StepColumn,
    chosen_preference: StepColumn,
    rejected_preference: StepColumn,
    beta: StepColumn,
) -> StepColumn:
    """((a - (P_w - 1/2) / beta)^2 + (c - (P_l - 1/2) / beta)^2) / 2, per pair (pairs,); a, c the summed log-ratios.

    P_w, P_l = `chosen_preference`, `rejected_preference`: the probability that the completion is preferred to one that
    the reference writes (the authors estimate it with PairRM over K samples). beta = 1 / eta of the paper. One round
    of SPPO; the next starts from this policy as the reference, with new completions.
    """
    return (
        (chosen_logratios - (chosen_preference - 0.5) / beta).square()
        + (rejected_logratios - (rejected_preference - 0.5) / beta).square()
    ) / 2


@objective(rewards=logratio_rewards, beta=1e-3)
def sppo_hard(chosen_logratios: StepColumn, rejected_logratios: StepColumn, beta: StepColumn) -> StepColumn:
    """(a - 1 / (2 beta))^2 + (c + 1 / (2 beta))^2, per pair (pairs,): P_w = 1, P_l = 0, as TRL's `sppo_hard`.

    Twice what `sppo` gives for these probabilities: the authors' code has a factor 1/2, TRL has not.
    """
    return (chosen_logratios - 0.5 / beta).square() + (rejected_logratios + 0.5 / beta).square()


SPPO = Paper("Self-Play Preference Optimization for Language Model Alignment", "2405.00675", "ICLR 2025")
method(
    "sppo",
    "Each log-ratio regressed on its completion's probability of winning",
    paper=SPPO,
    objective=sppo,
    learning_rate="5e-7 (RMSprop)",
)
method(
    "sppo_hard",
    "Each log-ratio regressed on +-1 / (2 beta)",
    paper=SPPO,
    objective=sppo_hard,
    learning_rate="5e-7 (RMSprop)",
)
