"""AOT: Melnyk et al. 2024, "Distributional Preference Alignment of LLMs via Optimal Transport"."""

from __future__ import annotations

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import LabelSmoothing
from scoreonce.pipeline.methods.pieces.logistic import smoothed_logistic
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards


def _quantile_gap(left: StepColumn, right: StepColumn) -> StepColumn:
    """left minus the value of the same rank in right, in the order of left, (pairs,)."""
    rank = left.argsort(stable=True).argsort(stable=True)
    return left - right.sort().values[rank]


@objective(rewards=logratio_rewards, batch_coupled=True, recouples=True)
def aot_pair(
    chosen_logratios: StepColumn,
    rejected_logratios: StepColumn,
    beta: StepColumn,
    *,
    label_smoothing: LabelSmoothing = 0.0,
) -> StepColumn:
    """-log sigmoid(beta (a_(k) - c_(k))): the k-th smallest chosen log-ratio against the k-th smallest rejected one.

    Over the whole optimizer step, where TRL sorts each device's micro-batch; at least two pairs, or it is DPO. Losses
    (pairs,) are in the order of the chosen completions, where TRL's are sorted; the mean is the same. TRL's `aot_pair`
    up to 0.x, `aot_unpaired` from 1.0 on. Label smoothing as in `dpo`.
    """
    return smoothed_logistic(beta * _quantile_gap(chosen_logratios, rejected_logratios), label_smoothing)


@objective(rewards=logratio_rewards, batch_coupled=True, recouples=True)
def aot(
    policy_chosen_logps: StepColumn,
    policy_rejected_logps: StepColumn,
    ref_chosen_logps: StepColumn,
    ref_rejected_logps: StepColumn,
    beta: StepColumn,
    *,
    label_smoothing: LabelSmoothing = 0.0,
) -> StepColumn:
    """-log sigmoid(beta (p_(k) - q_(k))), p = log pi(y_w) - log pi(y_l), q the same of the reference, each sorted.

    The paper's paired form, TRL's `aot`, over the whole optimizer step; losses (pairs,) in the order of the pairs'
    policy gaps p, where TRL's are sorted.
    """
    gap = _quantile_gap(policy_chosen_logps - policy_rejected_logps, ref_chosen_logps - ref_rejected_logps)
    return smoothed_logistic(beta * gap, label_smoothing)


AOT = Paper("Distributional Preference Alignment of LLMs via Optimal Transport", "2406.05882", "NeurIPS 2024")
method(
    "aot",
    "The policy's sorted preference gaps above the reference's",
    paper=AOT,
    objective=aot,
)
method(
    "aot_pair",
    "The sorted chosen log-ratios above the sorted rejected ones",
    paper=AOT,
    objective=aot_pair,
    aliases={"aot_unpaired": {}},
)
