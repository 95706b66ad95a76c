"""The facts that a verdict is made of. What is not known is None: no rule that needs it holds."""

from __future__ import annotations

from dataclasses import dataclass

from scoreonce.pipeline.evaluation.intervals import Interval, difference


@dataclass(frozen=True)
class LossRise:
    """How much the held-out loss rose from its lowest value, at `step`, to the end, over the same pairs.

    `rise` is simultaneous over all earlier evaluations, of which the lowest was chosen. The training losses are means
    over a tenth of the steps, up to `step` and at the end; `training_change` is the second minus the first, None where
    the two share steps.
    """

    step: int  # 0: before the first
    pairs: int
    then: float
    now: float
    rise: Interval
    training_change: Interval | None


@dataclass(frozen=True)
class Training:
    """A training run, of which steps have been logged."""

    steps: int
    finished: bool = True
    learning_rate: float | None = None
    first_not_finite: int | None = None  # the first step whose loss or gradient is no finite number
    moved: float | None = None  # median over pairs of |margin|, nats, in the last tenth of the steps
    accuracy: Interval | None = None  # of the training pairs of the last tenth of the steps, by the sign of the margin
    beta_floor: float | None = None  # the lower bound of beta, where the method has one
    at_floor: Interval | None = None  # share of the steps whose smallest beta is that bound
    rise: LossRise | None = None


@dataclass(frozen=True)
class Length:
    """What the length of the completions does to the accuracy: `explained` is accuracy minus the controlled one."""

    controlled: float
    explained: Interval


@dataclass(frozen=True)
class Driver:
    """A training pair with a high length-normalised CHES score."""

    row: int  # of the raw dataset
    pair_id: str
    ches: float


@dataclass(frozen=True)
class Ches:
    """Length-normalised CHES scores and the fall of the chosen side.

    `difference`: chosen log-ratio per token of the held-out pairs with CHES above its median, minus that of the others.
    `drivers`: the training pairs with the highest scores, of which a twentieth is above `cut`.
    """

    difference: Interval
    drivers: tuple[Driver, ...]
    cut: float


@dataclass(frozen=True)
class HeldOut:
    """A policy on held-out pairs: log-ratios in nats, without beta."""

    pairs: int  # with both sides
    accuracy: Interval | None = None  # ties half
    moved: float | None = None  # median of |margin|, or of |log-ratio| where a side is missing, in nats
    chosen_per_token: float | None = None  # log-ratio of the chosen side, nats per token: sums by tokens
    chosen: Interval | None = None  # the same as a mean over pairs
    not_finite: int = 0  # pairs whose margin is no finite number
    length: Length | None = None
    ches: Ches | None = None


@dataclass(frozen=True)
class Labels:
    """Repeated judgements in the audit: `flip_rate` of one judgement, and how often a label is wrong by it."""

    pairs: int  # judged more than once
    flip_rate: Interval
    label_error: float


@dataclass(frozen=True)
class Judged:
    """What the policy's own samples are worth: a true reward, a win rate against the reference, or a judge's score.

    `of` is the reference's, for a win rate ½; `share`: shown as percentages.
    """

    by: str
    grade: Interval
    of: Interval
    share: bool = False

    @property
    def gain(self) -> Interval:
        """Of the policy over the reference, their samples taken as independent."""
        return difference(self.grade, self.of)


@dataclass(frozen=True)
class Facts:
    """Everything that is known of a run."""

    training: Training | None = None
    held_out: HeldOut | None = None
    labels: Labels | None = None
    judged: Judged | None = None
