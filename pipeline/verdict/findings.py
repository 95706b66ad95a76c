"""What may be true of a run beside its state: a rule holds only beside the states that it does not contradict."""

from __future__ import annotations

from scoreonce.pipeline.evaluation.intervals import CHANCE, Interval
from scoreonce.pipeline.pages.numbers import number, percent, points
from scoreonce.pipeline.verdict.facts import Ches, Facts, HeldOut
from scoreonce.pipeline.verdict.rule import Advice, Number, Rule, Seen
from scoreonce.pipeline.verdict.sentences import gap, judged_sentence, share
from scoreonce.pipeline.verdict.states import GRADED, MEMORISED_GAP, NEWCOMBE, risen

FALL = 0.01  # nats per token
LENGTH_SHARE = 0.25
FLOOR_SHARE = 0.05

_GRADED = frozenset({"better", "worse"})
_RANKED = _GRADED | frozenset({"reversed", "memorised", "worsened", "memorised_pairs", "learnt", "undecided"})


def fallen(held_out: HeldOut | None) -> Interval | None:
    """The chosen log-ratio per token, where it certainly fell, and by more than a reader would pass over."""
    chosen = held_out.chosen if held_out else None
    return chosen if chosen is not None and chosen.high < 0 and chosen.mean <= -FALL else None


def _displaced(facts: Facts) -> Seen | None:
    fall, ches = fallen(facts.held_out), facts.held_out.ches if facts.held_out else None
    return None if fall is None else Seen(_fall(fall), _fall_numbers(fall, ches))


def _displaced_by_similar(facts: Facts) -> Seen | None:
    fall, ches = fallen(facts.held_out), facts.held_out.ches if facts.held_out else None
    if fall is None or ches is None or ches.difference.high >= 0:
        return None
    named = ", ".join(f"row {driver.row:,} ({number(driver.ches, 2)})" for driver in ches.drivers)
    similar = (
        f"Pairs with a high CHES score fell more, by {number(-ches.difference.mean, 2)} nats per token; the training "
        f"pairs with the highest: {named}."
    )
    return Seen(f"{_fall(fall)} {similar}", _fall_numbers(fall, ches))


def _fall(fall: Interval) -> str:
    ends = f"{number(-fall.high, 2)} to {number(-fall.low, 2)}"
    return f"Held-out chosen completions fell by {number(-fall.mean, 2)} ({ends}) nats per token, as a mean over pairs."


def _fall_numbers(fall: Interval, ches: Ches | None) -> dict[str, Number]:
    numbers: dict[str, Number] = {"chosen": fall.mean, "chosen_low": fall.low, "chosen_high": fall.high}
    if ches is not None:
        pairs = [driver.pair_id for driver in ches.drivers]
        numbers |= {"ches_difference": ches.difference.mean, "cut": round(ches.cut, 6), "pairs": pairs}
    return numbers


def _no_gain(facts: Facts) -> Seen | None:
    judged = facts.judged
    if judged is None or judged.gain.low > 0 or judged.gain.high < 0:
        return None
    gain = judged.gain
    ends = {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
    return Seen(f"{judged_sentence(judged)} No difference from the reference is sure.", {"by": judged.by, **ends})


def _loss_rose(facts: Facts) -> Seen | None:
    rise = risen(facts)
    if rise is None:
        return None
    sentence = f"The held-out loss rose since step {rise.step:,}, by {number(rise.rise.mean, 2)}."
    return Seen(sentence, {"step": rise.step, "rise": rise.rise.mean})


def _length(facts: Facts) -> Seen | None:
    accuracy, length = (facts.held_out.accuracy, facts.held_out.length) if facts.held_out else (None, None)
    if accuracy is None or length is None or accuracy.low <= CHANCE:
        return None
    above, explained = accuracy.mean - CHANCE, length.explained
    if explained.low <= 0 or explained.mean < LENGTH_SHARE * above:
        return None
    sentence = (
        f"Length explains {100 * explained.mean:.1f} of the {100 * above:.1f} points above chance "
        f"({points(explained.low)} to {points(explained.high)}): with longer and shorter chosen sides weighted "
        f"equally, accuracy is {percent(length.controlled)}."
    )
    numbers = {"explained": explained.mean, "explained_low": explained.low, "explained_high": explained.high}
    return Seen(sentence, {**numbers, "above_chance": above, "controlled": length.controlled})


def _gap(facts: Facts) -> Seen | None:
    found = gap(facts)
    if found is None or found.low <= 0 or found.mean < MEMORISED_GAP:
        return None
    assert facts.training is not None
    assert facts.training.accuracy is not None
    sentence = (
        f"It ranks {share(facts.training.accuracy)} of the last training pairs as labelled, {100 * found.mean:.0f} "
        "points more than of held-out ones."
    )
    return Seen(sentence, {"gap": found.mean, "gap_low": found.low, "gap_high": found.high})


def _at_floor(facts: Facts) -> Seen | None:
    training = facts.training
    if training is None or training.beta_floor is None or training.at_floor is None:
        return None
    if training.at_floor.low <= FLOOR_SHARE:
        return None
    sentence = (
        f"β was at its floor of {number(training.beta_floor, 2)} in {share(training.at_floor)} of the steps: there the "
        "loss is nearly flat, and nothing holds the policy to the reference."
    )
    return Seen(sentence, {"floor": training.beta_floor, "share": training.at_floor.mean, "low": training.at_floor.low})


def _ceiling(facts: Facts) -> Seen | None:
    labels = facts.labels
    if labels is None or labels.flip_rate.low <= 0:
        return None
    ceiling, held_out = 1 - labels.label_error, facts.held_out
    accuracy = held_out.accuracy if held_out else None
    sentence = (
        f"No policy can be expected to rank more than {percent(ceiling)} as labelled: by {labels.pairs:,} pairs that "
        f"were judged repeatedly, {percent(labels.label_error)} of the labels are wrong"
    )
    reached = accuracy is not None and accuracy.high >= ceiling
    end = ", so that this run may be as good as these labels can show." if reached else "."
    numbers: dict[str, Number] = {"ceiling": ceiling, "label_error": labels.label_error, "reached": reached}
    return Seen(sentence + end, numbers)


FINDINGS = (
    Rule(
        "no_clear_gain",
        "no clear gain ({by})",
        "a true reward, a win rate against the reference or a judge's score is known, and the interval of the "
        "difference from the reference (of a win rate, from ½) has in it",
        0,
        "units of the reward, of the score or share of wins",
        GRADED,
        _no_gain,
        (Advice("sample", "check", "judge more samples"),),
        beside=frozenset({"did_nothing", "is_reference", "collapsed", "unknown"}) | (_RANKED - _GRADED),
    ),
    Rule(
        "held_out_loss_rose",
        "its held-out loss rose since step {step}",
        "beside `better` or `worse`, as in `memorised` and `worsened`: the interval of the rise lies above",
        0,
        "units of the loss",
        "as of `memorised`; the labels of the held-out pairs and the judge need not agree",
        _loss_rose,
        (Advice("evaluate.policy", "set", 'try whether evaluate.policy = "best" gives a better model'),),
        beside=_GRADED,
    ),
    Rule(
        "displaced_by_similar_pairs",
        "displaced, by pairs whose sides are alike",
        "held-out chosen completions fell (`displaced`), and those of pairs with a CHES score above the median "
        "certainly more than others, by more than",
        0,
        "nats per token",
        "Razin et al. 2024, arXiv 2410.08847, Definition 3 (length-normalised CHES): pairs with similar hidden states "
        "drive likelihood displacement, and leaving out those with the highest scores mitigates it; the twentieth that "
        "is left out here is a choice. Needs `score.embeddings`",
        _displaced_by_similar,
        (Advice("train.where", "set", 'leave out the most similar twentieth: train.where = "ref_ln_ches < {cut}"'),),
        beside=_RANKED | {"collapsed"},
    ),
    Rule(
        "displaced",
        "displaced",
        "the mean log-ratio per token of held-out chosen completions is certainly below 0, and at or below",
        -FALL,
        "nats per token",
        "likelihood displacement: Razin et al. 2024, arXiv 2410.08847; Pal et al. 2024, arXiv 2402.13228; the interval "
        "is that of a mean; 0.01, 1 % of perplexity, is a choice",
        _displaced,
        (
            Advice(
                "train.objective",
                "set",
                "where samples get worse, add an sft term to train.objective, or use method dpop",
            ),
        ),
        beside=_RANKED,
    ),
    Rule(
        "length",
        "length explains part of it",
        "accuracy minus length-controlled accuracy, (p - 1/2) (a - b), is certainly above 0, and as a share of the "
        "accuracy above chance at least",
        LENGTH_SHARE,
        "share",
        "p pairs have the longer side chosen, with accuracy a, the others b; Newcombe 1998, method 10, for a - b. "
        "Length bias: Park et al. 2024, arXiv 2403.19159; Dubois et al. 2024, arXiv 2404.04475. A quarter is a choice",
        _length,
        (
            Advice(
                "train.method",
                "check",
                "quote the length-controlled accuracy, and compare with a method that is normalised by length (r_dpo, "
                "simpo)",
            ),
        ),
        beside=frozenset({"better", "memorised", "worsened", "learnt"}),
    ),
    Rule(
        "training_pairs_better",
        "ranks its training pairs better",
        "the accuracy of the last training pairs is higher than the held-out one, certainly and by at least",
        MEMORISED_GAP,
        "share of pairs",
        NEWCOMBE,
        _gap,
        (Advice("train.epochs", "lower", "do not train for more epochs"),),
        beside=frozenset({"learnt", "better"}),
    ),
    Rule(
        "beta_at_floor",
        "β is at its floor",
        "the interval of the share of steps whose β is the method's lower bound lies above",
        FLOOR_SHARE,
        "share of steps",
        "Wu et al. 2024, arXiv 2407.08639: β = β0 (1 + a (mean margin - M0)) is at its floor where a step's mean "
        "margin is 1/a nats below the running mean: 1.65 nats for β0 = 0.1, a = 0.6 and floor 0.001, where one step in "
        "20 is if the margins of its n pairs deviate by √n nats, 8 for 64 pairs (simulated in the tests)",
        _at_floor,
        (Advice("train.a", "lower", "lower train.a, by which β follows the margins"),),
        beside=_RANKED | {"did_nothing", "collapsed", "unknown"},
    ),
    Rule(
        "noise_ceiling",
        "labels are noisy",
        "the audit's flip rate of one judgement has an interval above",
        0,
        "share of judgements",
        "a policy that is right about every pair agrees with a share 1 - ε of labels that are flipped with probability "
        "ε (simulated in the tests); ε is the audit's, for votes that of their majority, and too low where judges "
        "share a bias",
        _ceiling,
        (Advice("train.label_smoothing", "set", "set train.label_smoothing = {label_error:.2g}, or method robust"),),
        beside=_RANKED | {"collapsed"},
    ),
)
