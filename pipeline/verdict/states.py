"""The states of a run, of which exactly one leads: the first that holds."""

from __future__ import annotations

from scoreonce.pipeline.evaluation.intervals import CHANCE
from scoreonce.pipeline.pages.numbers import number
from scoreonce.pipeline.verdict.facts import Facts, Judged, LossRise
from scoreonce.pipeline.verdict.rule import Advice, Number, Rule, Seen
from scoreonce.pipeline.verdict.sentences import accuracy_sentence, ends, gap, joined, judged_sentence, share

STILL = 0.05  # nats
COLLAPSED = -1.0  # nats per token
MEMORISED_GAP = 0.15

_LESS = (
    Advice("evaluate.policy", "set", 'set evaluate.policy = "best", which writes the weights of the best step'),
    Advice("train.epochs", "lower", "train for fewer epochs, or set evaluate.patience"),
)


def _unfinished(facts: Facts) -> Seen | None:
    training = facts.training
    if training is None or training.finished:
        return None
    return Seen(f"{training.steps:,} steps are logged, and there is no final model.", {"steps": training.steps})


def _diverged(facts: Facts) -> Seen | None:
    training, held_out = facts.training, facts.held_out
    if training is not None and training.first_not_finite is not None:
        step = training.first_not_finite
        return Seen(f"Loss or gradient is not finite, first at step {step:,}.", {"step": step})
    if held_out is not None and held_out.not_finite:
        count = held_out.not_finite
        return Seen(f"The margins of {count:,} held-out pairs are not finite.", {"not_finite": count})
    return None


def _judged(judged: Judged, facts: Facts) -> Seen:
    gain = judged.gain
    numbers: dict[str, Number] = {"by": judged.by, "grade": judged.grade.mean, "reference": judged.of.mean}
    ends_of_gain = {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
    return Seen(joined(judged_sentence(judged), accuracy_sentence(facts)), numbers | ends_of_gain | ends(facts))


def _better(facts: Facts) -> Seen | None:
    return _judged(facts.judged, facts) if facts.judged and facts.judged.gain.low > 0 else None


def _worse(facts: Facts) -> Seen | None:
    return _judged(facts.judged, facts) if facts.judged and facts.judged.gain.high < 0 else None


def _nothing(facts: Facts) -> Seen | None:
    training, held_out = facts.training, facts.held_out
    moved, of = (held_out.moved if held_out else None), "held-out"
    if moved is None:
        moved, of = (training.moved if training else None), "training"
    if moved is None or moved >= STILL:
        return None
    middle = f"the median {of} pair's margin is {number(moved, 2)} nats away from the reference's"
    if training is None:
        return Seen(f"{middle[0].upper()}{middle[1:]}: this policy is the reference, or all but it.", {"moved": moved})
    rate = "" if training.learning_rate is None else f" at a learning rate of {number(training.learning_rate, 2)}"
    return Seen(f"After {training.steps:,} steps{rate}, {middle}.", {"moved": moved, "steps": training.steps})


def _nothing_untrained(facts: Facts) -> Seen | None:
    return _nothing(facts) if facts.training is None else None


def _collapsed(facts: Facts) -> Seen | None:
    fall = facts.held_out.chosen_per_token if facts.held_out else None
    if fall is None or fall > COLLAPSED:
        return None
    sentence = f"Held-out chosen completions have become {number(-fall, 2)} nats per token less likely."
    return Seen(joined(sentence, accuracy_sentence(facts)), {"chosen_per_token": fall, **ends(facts)})


def _reversed(facts: Facts) -> Seen | None:
    accuracy = facts.held_out.accuracy if facts.held_out else None
    if accuracy is None or accuracy.high >= CHANCE:
        return None
    return Seen(accuracy_sentence(facts), ends(facts))


def risen(facts: Facts) -> LossRise | None:
    """The rise of the held-out loss, where it certainly rose."""
    rise = facts.training.rise if facts.training else None
    return rise if rise is not None and rise.rise.low > 0 else None


def _memorised_since(facts: Facts) -> Seen | None:
    rise = risen(facts)
    if rise is None or rise.training_change is None or rise.training_change.high >= 0:
        return None
    return _risen(facts, rise, f" The training loss fell meanwhile, by {number(-rise.training_change.mean, 2)}.")


def _worsened_since(facts: Facts) -> Seen | None:
    rise = risen(facts)
    return None if rise is None else _risen(facts, rise, " The training loss did not clearly fall meanwhile.")


def _risen(facts: Facts, rise: LossRise, training: str) -> Seen:
    loss = (
        f"The held-out loss rose from {number(rise.then)} to {number(rise.now)}, by {number(rise.rise.mean, 2)} "
        f"({number(rise.rise.low, 2)} to {number(rise.rise.high, 2)}) on the same {rise.pairs:,} pairs.{training}"
    )
    numbers = {"step": rise.step, "rise": rise.rise.mean, "rise_low": rise.rise.low, "rise_high": rise.rise.high}
    return Seen(joined(loss, accuracy_sentence(facts)), {**numbers, **ends(facts)})


def _memorised(facts: Facts) -> Seen | None:
    found, held_out = gap(facts), facts.held_out.accuracy if facts.held_out else None
    if found is None or held_out is None or found.low <= 0 or found.mean < MEMORISED_GAP or held_out.low > CHANCE:
        return None
    assert facts.training is not None
    assert facts.training.accuracy is not None
    own = f"It ranks {share(facts.training.accuracy)} of the last training pairs as labelled."
    return Seen(joined(own, accuracy_sentence(facts)), {"gap": found.mean, "gap_low": found.low, **ends(facts)})


def _learnt(facts: Facts) -> Seen | None:
    accuracy = facts.held_out.accuracy if facts.held_out else None
    return Seen(accuracy_sentence(facts), ends(facts)) if accuracy is not None and accuracy.low > CHANCE else None


def _undecided(facts: Facts) -> Seen | None:
    accuracy = facts.held_out.accuracy if facts.held_out else None
    return None if accuracy is None else Seen(f"{accuracy_sentence(facts)} That may be chance.", ends(facts))


def _unknown(facts: Facts) -> Seen:
    if facts.held_out is not None:
        return Seen("None of the held-out rows has both a chosen and a rejected side, so there is no accuracy.", {})
    moved = facts.training.moved if facts.training else None
    if moved is None:
        return Seen("There are no held-out figures of it yet.", {})
    words = f"The median training pair's margin moved by {number(moved, 2)} nats; there are no held-out figures yet."
    return Seen(words, {"moved": moved})


WILSON = "Wilson 1927, score interval of a share"
GRADED = "Newcombe 1998, method 10, of the two 95 % intervals, samples taken as independent"
NEWCOMBE = "Newcombe 1998, method 10, for the difference; 15 points are a choice"
_MOVES = (
    "e^0.05 = 1.05: the odds of chosen against rejected differ from the reference's by less than 5 % for half of the "
    "pairs, which 6,000 choices between the two hardly show (simulated in the tests)"
)
_RISES = (
    "paired Student interval, by Bonferroni over all earlier evaluations because the lowest was chosen (simulated in "
    "the tests: of losses that do not rise, less than 5 % are said to)"
)

STATES = (
    Rule(
        "unfinished",
        "has not finished",
        "steps are logged, and there is no model",
        None,
        "",
        "the files of the run",
        _unfinished,
        (Advice("train", "check", "run train again: it goes on from the last checkpoint"),),
        leading=True,
        severity="serious",
    ),
    Rule(
        "diverged",
        "diverged",
        "a loss, a gradient norm or a held-out margin is not finite",
        None,
        "",
        "no statistics: one such number makes the weights useless",
        _diverged,
        (
            Advice("train.learning_rate", "lower", "lower train.learning_rate, and do not use this model"),
            Advice("train.dtype", "check", "compute in float32 if it diverges again"),
        ),
        leading=True,
        severity="serious",
    ),
    Rule(
        "better",
        "better than the reference ({by})",
        "the policy's samples have a true reward, a win rate against the reference or a judge's score that is known, "
        "and the interval of the difference from the reference (of a win rate, from ½) lies above",
        0,
        "units of the reward, of the score or share of wins",
        GRADED + "; it leads over what held-out pairs say, because it is of what the policy writes",
        _better,
        leading=True,
    ),
    Rule(
        "worse",
        "worse than the reference ({by})",
        "the same difference has an interval below",
        0,
        "units of the reward, of the score or share of wins",
        GRADED + "; over-optimisation, in which accuracy may still rise: Gao et al. 2022, arXiv 2210.10760; Rafailov "
        "et al. 2024, arXiv 2406.02900",
        _worse,
        (
            Advice("train.epochs", "lower", "train for fewer epochs, or set evaluate.patience"),
            Advice("train.beta", "raise", "raise train.beta, which holds the policy to the reference"),
        ),
        leading=True,
        severity="serious",
    ),
    Rule(
        "is_reference",
        "is the reference",
        "the policy was not trained here, and the median size of its margin on held-out pairs is below",
        STILL,
        "nats",
        _MOVES,
        _nothing_untrained,
        leading=True,
    ),
    Rule(
        "did_nothing",
        "did nothing",
        "the median size of the margin of held-out pairs, or before `evaluate` of those of the last tenth of steps, is "
        "below",
        STILL,
        "nats",
        _MOVES,
        _nothing,
        (Advice("train.learning_rate", "raise", "raise train.learning_rate, or train for more steps"),),
        leading=True,
        severity="serious",
    ),
    Rule(
        "collapsed",
        "collapsed",
        "the log-ratio of held-out chosen completions, sums by tokens, is at or below",
        COLLAPSED,
        "nats per token",
        "a choice: a token of a chosen completion became e = 2.7 times less likely, perplexity that much higher; "
        "the catastrophic case of likelihood displacement (Razin et al. 2024, arXiv 2410.08847)",
        _collapsed,
        (
            Advice("train.learning_rate", "lower", "lower train.learning_rate"),
            Advice("train.beta", "raise", "raise train.beta, which holds the policy to the reference"),
        ),
        leading=True,
        severity="serious",
    ),
    Rule(
        "reversed",
        "ranks held-out pairs the wrong way round",
        "the interval of the held-out accuracy lies below",
        CHANCE,
        "share of pairs",
        WILSON,
        _reversed,
        (
            Advice(
                "data", "check", "look for chosen and rejected sides that are swapped, in training or in held-out pairs"
            ),
        ),
        leading=True,
        severity="serious",
    ),
    Rule(
        "memorised",
        "memorised since step {step}",
        "the held-out loss rose from its lowest evaluation to that of the model, on the same pairs, while the training "
        "loss fell: its interval lies above",
        0,
        "units of the loss",
        _RISES,
        _memorised_since,
        _LESS,
        leading=True,
        severity="notice",
    ),
    Rule(
        "worsened",
        "has become worse since step {step}",
        "the held-out loss rose from its lowest evaluation to that of the model, on the same pairs, while the training "
        "loss did not clearly fall: its interval lies above",
        0,
        "units of the loss",
        _RISES,
        _worsened_since,
        (_LESS[0], Advice("train.learning_rate", "lower", "lower train.learning_rate")),
        leading=True,
        severity="notice",
    ),
    Rule(
        "memorised_pairs",
        "memorised its training pairs",
        "the held-out accuracy may be chance, and that of the last training pairs is higher, certainly and by at least",
        MEMORISED_GAP,
        "share of pairs",
        NEWCOMBE,
        _memorised,
        (_LESS[1],),
        leading=True,
        severity="serious",
    ),
    Rule(
        "learnt",
        "learnt",
        "the interval of the held-out accuracy lies above",
        CHANCE,
        "share of pairs",
        WILSON,
        _learnt,
        leading=True,
    ),
    Rule(
        "undecided",
        "moved, and may have learnt nothing",
        "the interval of the held-out accuracy has chance in it",
        CHANCE,
        "share of pairs",
        WILSON,
        _undecided,
        (
            Advice(
                "data.test_share",
                "raise",
                "hold out more pairs (data.test_share): of 400, 55% are needed for a clear answer",
            ),
        ),
        leading=True,
        severity="serious",
    ),
    Rule(
        "unknown",
        "not judged yet",
        "no other state holds: there is no held-out accuracy",
        None,
        "",
        "",
        _unknown,
        (Advice("evaluate", "check", "run evaluate, on held-out pairs with both sides"),),
        leading=True,
    ),
)
