"""What several rules say and compare: the held-out accuracy, that of the training pairs, what judges say of samples."""

from __future__ import annotations

from scoreonce.pipeline.evaluation.intervals import Interval, difference
from scoreonce.pipeline.pages.numbers import fixed, percent, signed
from scoreonce.pipeline.verdict.facts import Facts, Judged


def share(estimate: Interval) -> str:
    """A share with its interval, as percentages."""
    return f"{percent(estimate.mean)} ({percent(estimate.low)} to {percent(estimate.high)})"


def judged_sentence(judged: Judged) -> str:
    """What the policy's samples are worth, beside the reference's."""
    if judged.share:
        return f"The {judged.by} is {share(judged.grade)}."
    grade, gain = judged.grade, judged.gain
    return (
        f"The {judged.by} is {fixed(grade.mean)} ({fixed(grade.low)} to {fixed(grade.high)}), the reference’s "
        f"{fixed(judged.of.mean)}: a difference of {signed(gain.mean)} ({signed(gain.low)} to {signed(gain.high)})."
    )


def accuracy_sentence(facts: Facts) -> str:
    """The held-out accuracy; an empty string where it is not known."""
    held_out = facts.held_out
    if held_out is None or held_out.accuracy is None:
        return ""
    return f"It ranks {share(held_out.accuracy)} of {held_out.pairs:,} held-out pairs as labelled."


def ends(facts: Facts) -> dict[str, float | None]:
    """The held-out accuracy and its interval; empty where it is not known."""
    accuracy = facts.held_out.accuracy if facts.held_out else None
    if accuracy is None:
        return {}
    return {"accuracy": accuracy.mean, "accuracy_low": accuracy.low, "accuracy_high": accuracy.high}


def joined(*sentences: str) -> str:
    """The sentences that say something, in a row."""
    return " ".join(filter(None, sentences))


def gap(facts: Facts) -> Interval | None:
    """Accuracy of the last training pairs minus that of the held-out ones."""
    training = facts.training.accuracy if facts.training else None
    held_out = facts.held_out.accuracy if facts.held_out else None
    if training is None or held_out is None:
        return None
    return difference(training, held_out)
