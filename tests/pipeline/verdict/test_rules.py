"""Each rule: a run in which it holds, and one in which it does not, at the threshold where it has one."""

from dataclasses import replace

import pytest

from scoreonce.pipeline.evaluation.intervals import Interval
from scoreonce.pipeline.verdict.facts import (
    Ches,
    Driver,
    Facts,
    HeldOut,
    Judged,
    Labels,
    Length,
    LossRise,
    Training,
)
from scoreonce.pipeline.verdict.measures import share_of
from scoreonce.pipeline.verdict.text import document, paragraph
from scoreonce.pipeline.verdict.verdict import RULES, verdict

TRAINING = Training(steps=200, learning_rate=5e-7, moved=2.0, accuracy=share_of(0.65, 400))
HELD_OUT = HeldOut(pairs=400, accuracy=share_of(0.7, 400), moved=2.0, chosen_per_token=0.1)
LEARNT = Facts(TRAINING, HELD_OUT)
FELL, STAYED = Interval(-0.2, -0.25, -0.15), Interval(-0.2, -0.5, 0.1)
RISE = LossRise(step=40, pairs=256, then=0.6, now=0.7, rise=Interval(0.1, 0.02, 0.18), training_change=FELL)
CHES = Ches(Interval(-0.1, -0.15, -0.05), (Driver(7, "ab", 0.5), Driver(3, "cd", 0.4)), cut=0.25)


def with_training(**facts):
    return replace(LEARNT, training=replace(TRAINING, **facts))


def with_held_out(**facts):
    return replace(LEARNT, held_out=replace(HELD_OUT, **facts))


def ranked(share, pairs=400, **facts):
    return with_held_out(accuracy=share_of(share, pairs), pairs=pairs, **facts)


def fallen(at, half, **facts):
    return with_held_out(chosen=Interval(at, at - half, at + half), **facts)


def noisy(low, high, share=0.7):
    labels = Labels(pairs=100, flip_rate=Interval(0.12, low, high), label_error=0.12)
    return replace(ranked(share), labels=labels)


def longer(explained, half, share=0.7):
    length = Length(controlled=share - explained, explained=Interval(explained, explained - half, explained + half))
    return ranked(share, length=length)


def judged(at, half=0.1, of=1.0, facts=LEARNT):
    """A true reward; the reference's own interval has a half width of 0.1 too, so that 0.141 above it is sure."""
    return replace(facts, judged=Judged("true reward", Interval(at, at - half, at + half), Interval(of, 0.9, 1.1)))


def wins(rate, facts):
    half = Interval(0.5, 0.5, 0.5)
    return replace(facts, judged=Judged("win rate", Interval(rate, rate - 0.05, rate + 0.05), half, share=True))


# By rule: facts in which it holds, and facts in which it does not. Accuracy 0.7 of 400 is 20 points above chance, and
# Wilson's ends of a share p of 400 are 0.549 * 0.4952 ... worked out in `test_intervals`.
CASES = {
    "unfinished": ([with_training(finished=False)], [LEARNT]),
    "diverged": ([with_training(first_not_finite=12), with_held_out(not_finite=3)], [LEARNT]),
    "better": (
        [judged(1.15), judged(1.15, facts=ranked(0.45)), wins(0.56, ranked(0.5))],
        [judged(1.14), wins(0.55, LEARNT), LEARNT],
    ),
    "worse": ([judged(0.85), wins(0.44, LEARNT)], [judged(0.86), wins(0.45, LEARNT), LEARNT]),
    "no_clear_gain": ([judged(1.14), judged(0.86), wins(0.45, LEARNT)], [judged(1.15), judged(0.85), LEARNT]),
    "held_out_loss_rose": (
        [judged(2.0, facts=with_training(rise=RISE)), judged(0.0, facts=with_training(rise=RISE))],
        [judged(2.0), with_training(rise=RISE), judged(1.0, facts=with_training(rise=RISE))],
    ),
    "is_reference": (
        [Facts(held_out=replace(HELD_OUT, moved=0.0))],
        [with_held_out(moved=0.0), Facts(held_out=HELD_OUT)],
    ),
    "did_nothing": (
        [with_held_out(moved=0.049), Facts(replace(TRAINING, moved=0.049))],
        [with_held_out(moved=0.05), Facts(replace(TRAINING, moved=0.05)), Facts(replace(TRAINING, moved=None))],
    ),
    "collapsed": ([with_held_out(chosen_per_token=-1.0)], [with_held_out(chosen_per_token=-0.99)]),
    "reversed": ([ranked(0.45)], [ranked(0.46)]),  # Wilson's high ends: 0.499 and 0.509
    "memorised": (
        [with_training(rise=RISE)],
        [
            with_training(rise=replace(RISE, rise=Interval(0.1, -0.01, 0.21))),
            with_training(rise=replace(RISE, training_change=STAYED)),
            with_training(rise=replace(RISE, training_change=None)),
        ],
    ),
    "worsened": (
        [
            with_training(rise=replace(RISE, training_change=STAYED)),
            with_training(rise=replace(RISE, training_change=None)),
        ],
        [with_training(rise=RISE), LEARNT],
    ),
    # 0.66 to 0.5 of 400 each is 16 points with an interval of 0.16 -+ 0.068.
    "memorised_pairs": (
        [replace(ranked(0.5), training=replace(TRAINING, accuracy=share_of(0.66, 400)))],
        [
            replace(ranked(0.52), training=replace(TRAINING, accuracy=share_of(0.66, 400))),  # 14 points
            replace(ranked(0.5, 8), training=replace(TRAINING, accuracy=share_of(0.66, 8))),  # not certain
            replace(ranked(0.7), training=replace(TRAINING, accuracy=share_of(0.95, 400))),  # and learnt
        ],
    ),
    "learnt": ([LEARNT, ranked(0.55)], [ranked(0.54), ranked(0.55, 399 // 2)]),  # Wilson's low ends 0.501 and 0.491
    "undecided": ([ranked(0.54), replace(ranked(0.54), training=None)], [ranked(0.55), ranked(0.45)]),
    "unknown": ([Facts(), Facts(TRAINING), Facts(TRAINING, HeldOut(pairs=0, moved=2.0))], [LEARNT]),
    "displaced": ([fallen(-0.2, 0.05)], [fallen(-0.2, 0.21), fallen(-0.009, 0.001), fallen(0.2, 0.05)]),
    "displaced_by_similar_pairs": (
        [fallen(-0.2, 0.05, ches=CHES)],
        [
            fallen(-0.2, 0.05, ches=replace(CHES, difference=Interval(-0.1, -0.3, 0.1))),
            fallen(0.2, 0.05, ches=CHES),
            fallen(-0.2, 0.05),
        ],
    ),
    "length": ([longer(0.05, 0.02)], [longer(0.049, 0.02), longer(0.05, 0.06), longer(0.05, 0.02, share=0.52)]),
    "training_pairs_better": (
        [with_training(accuracy=share_of(0.95, 400))],
        [LEARNT, replace(ranked(0.5), training=replace(TRAINING, accuracy=share_of(0.95, 400)))],
    ),
    # Wilson's low ends of 14 and 20 in 200 are 0.042 and 0.065.
    "beta_at_floor": (
        [with_training(beta_floor=1e-3, at_floor=share_of(20 / 200, 200))],
        [with_training(beta_floor=1e-3, at_floor=share_of(14 / 200, 200)), with_training(at_floor=share_of(1.0, 200))],
    ),
    "noise_ceiling": ([noisy(0.05, 0.2)], [noisy(0.0, 0.2), LEARNT]),
}


def names(facts):
    return [finding.name for finding in verdict(facts).all]


def test_every_rule_has_its_cases():
    assert set(CASES) == {rule.name for rule in RULES}


@pytest.mark.parametrize(("name", "facts"), [(name, facts) for name, (holds, _) in CASES.items() for facts in holds])
def test_a_run_in_which_the_rule_holds(name, facts):
    assert name in names(facts)


@pytest.mark.parametrize(("name", "facts"), [(name, facts) for name, (_, others) in CASES.items() for facts in others])
def test_a_run_in_which_it_does_not(name, facts):
    assert name not in names(facts)


def test_what_is_said_of_a_run_that_did_nothing():
    facts = Facts(Training(steps=40, learning_rate=1e-12, moved=0.0))
    assert paragraph(verdict(facts)) == (
        "Did nothing. After 40 steps at a learning rate of 1.0e−12, the median training pair's margin is 0 nats away "
        "from the reference's. To do: raise train.learning_rate, or train for more steps."
    )


def test_what_is_said_of_a_run_that_memorised():
    assert paragraph(verdict(with_training(rise=RISE))) == (
        "Memorised since step 40. The held-out loss rose from 0.600 to 0.700, by 0.10 (0.020 to 0.18) on the same 256 "
        "pairs. The training loss fell meanwhile, by 0.20. It ranks 70.0% (65.3% to 74.3%) of 400 held-out pairs as "
        'labelled. To do: set evaluate.policy = "best", which writes the weights of the best step; train for fewer '
        "epochs, or set evaluate.patience."
    )


def test_what_is_said_beside_a_state():
    facts = replace(
        fallen(-0.2, 0.05, ches=CHES, length=longer(0.1, 0.02).held_out.length),
        labels=noisy(0.05, 0.2).labels,
        training=replace(TRAINING, beta_floor=1e-3, at_floor=share_of(0.5, 200)),
    )
    said = paragraph(verdict(facts))
    assert said.startswith(
        "Learnt; displaced, by pairs whose sides are alike; length explains part of it; β is at its floor; "
        "labels are noisy. It ranks 70.0%"
    )
    assert "fell by 0.20 (0.15 to 0.25) nats per token" in said
    assert "the training pairs with the highest: row 7 (0.50), row 3 (0.40)" in said
    assert "Length explains 10.0 of the 20.0 points above chance (+8.0 to +12.0)" in said
    assert "more than 88.0% as labelled" in said
    assert 'train.where = "ref_ln_ches < 0.25"' in said
    assert "set train.label_smoothing = 0.12" in said
    found = document(verdict(facts))
    assert found["state"] == "learnt"
    assert found["findings"][1]["numbers"]["pairs"] == ["ab", "cd"]
    assert all({"threshold", "unit", "source", "advice"} <= entry.keys() for entry in found["findings"])


def test_an_accuracy_at_the_ceiling_is_told_from_one_below():
    """The ceiling is 0.88; Wilson's high ends of 0.86 and 0.7 of 400 are 0.890 and 0.743."""
    assert "may be as good as these labels can show" in paragraph(verdict(noisy(0.05, 0.2, share=0.86)))
    assert "may be as good as these labels can show" not in paragraph(verdict(noisy(0.05, 0.2)))


def test_a_reward_that_rose_is_not_called_undecided():
    """50% of 400 pairs may be chance, and the true reward is 0.5 above the reference's, sure from 0.141 on."""
    facts = replace(ranked(0.5), training=replace(TRAINING, accuracy=share_of(0.52, 400)))
    assert verdict(facts).state.name == "undecided"
    found = verdict(judged(1.5, facts=facts))
    said = paragraph(found)
    assert said.startswith(
        "Better than the reference (true reward). The true reward is 1.50 (1.40 to 1.60), the reference’s 1.00: a "
        "difference of +0.50 (+0.36 to +0.64). It ranks 50.0%"
    )
    assert "nothing" not in said
    assert "chance" not in said
    assert document(found)["severity"] == "none"


def test_a_policy_that_learnt_and_writes_worse_is_in_doubt():
    found = verdict(wins(0.4, LEARNT))
    assert paragraph(found).startswith("Worse than the reference (win rate). The win rate is 40.0% (35.0% to 45.0%).")
    assert document(found)["severity"] == "serious"
