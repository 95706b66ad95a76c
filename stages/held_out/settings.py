"""What held-out figures while training need: settings that go together, columns, and names of metrics."""

from __future__ import annotations

from scoreonce.pipeline.methods import Method
from scoreonce.pipeline.training.policy_columns import PolicyColumns
from scoreonce.schemas import held_out as h
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Run

SIDES = ("chosen", "rejected")
OF_POLICY = frozenset(f"policy_{side}_{kind}" for side in SIDES for kind in ("logps", "entropy"))
OF_REFERENCE = frozenset(f"ref_{side}_logps" for side in SIDES)
SECONDS = "perf/eval_seconds"  # in metrics.jsonl, of each step after which figures were computed
# The others are TRL's names of what the method computes, behind `eval/`.
METRICS = {
    h.ACCURACY.name: "eval/accuracy",
    h.MARGIN.name: "eval/margin",
    h.CHOSEN_LOGRATIO.name: "eval/logratios/chosen",
    h.REJECTED_LOGRATIO.name: "eval/logratios/rejected",
    h.CROSS_ENTROPY_INCREASE.name: "eval/kl",
    h.ENTROPY.name: "eval/entropy",
    h.SECONDS.name: SECONDS,
}


def has_loss(method: Method) -> bool:
    """Whether the method's loss is among the figures: another prompt's completion is scored in training data alone."""
    return not PolicyColumns.of(method.reads).needs("mismatched completion")


def reads(method: Method) -> frozenset[str]:
    """The base columns of held-out figures: those of the method, for its loss, and of the figures themselves."""
    return OF_POLICY | OF_REFERENCE | (method.reads if has_loss(method) else frozenset())


def imitates(method: Method) -> bool:
    """Whether a method reads the chosen completion alone, and so needs no other."""
    return PolicyColumns.of(method.reads).completions == ("chosen",)


def interval(every: float, steps_per_epoch: int) -> int:
    """Optimizer steps between evaluations: `every` itself, or below 1 that share of an epoch, at least one step."""
    return int(every) if every >= 1 else max(1, round(every * steps_per_epoch))


def require_settings(run: Run, method: Method) -> None:
    """Raise `InputError` where the run file goes by held-out figures that are not computed."""
    settings = run.evaluate
    asked = [f"evaluate.patience = {settings.patience}"] if settings.patience is not None else []
    asked += ['evaluate.policy = "best"'] if settings.policy == "best" else []
    if asked and settings.every is None:
        raise InputError(
            "Training is to go by held-out figures, and none are computed while it runs.",
            found=f"{' and '.join(asked)}, and no evaluate.every",
            where="[evaluate] of the run file",
            fix="Set the steps between evaluations, e.g. --set evaluate.every=50, or leave these settings out.",
        )
    if settings.decides and settings.metric == "loss" and not has_loss(method):
        raise InputError(
            f"The held-out loss of {method.name} is not computed.",
            found="it reads another prompt's completion behind each prompt, which training pairs alone have",
            where="evaluate.metric",
            fix='Set evaluate.metric = "accuracy" or "margin".',
        )
