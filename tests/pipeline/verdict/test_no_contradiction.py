"""Over all combinations of facts: one state, and never two directions for one key, nor for how much is trained."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from scoreonce.pipeline.evaluation.intervals import Interval
from scoreonce.pipeline.verdict.facts import Ches, Driver, Facts, HeldOut, Judged, Labels, Length, LossRise, Training
from scoreonce.pipeline.verdict.states import STATES
from scoreonce.pipeline.verdict.text import document, paragraph
from scoreonce.pipeline.verdict.verdict import RULES, verdict

# Which advice moves the policy further from the reference, and which less far.
FURTHER = {("train.learning_rate", "raise"), ("train.epochs", "raise"), ("train.beta", "lower")}
LESS_FAR = {("train.learning_rate", "lower"), ("train.epochs", "lower"), ("train.beta", "raise")}


def one_of(*values):
    return st.sampled_from(values)


def estimate(at, half=0.05):
    return Interval(at, at - half, at + half)


# Each fact on both sides of every threshold; what would hide all else is rare.
RISES = st.builds(
    LossRise,
    step=st.just(10),
    pairs=st.just(9),
    then=st.just(0.6),
    now=st.just(0.7),
    rise=one_of(estimate(0.1), estimate(0.01)),
    training_change=one_of(None, estimate(-0.1), estimate(0.1)),
)
TRAININGS = st.builds(
    Training,
    steps=st.just(100),
    finished=one_of(*[True] * 9, False),
    learning_rate=one_of(None, 1e-6),
    first_not_finite=one_of(*[None] * 9, 3),
    moved=one_of(None, 0.049, 0.05, 3.0),
    accuracy=one_of(None, estimate(0.9), estimate(0.5)),
    beta_floor=one_of(None, 1e-3),
    at_floor=one_of(None, estimate(0.06), estimate(0.5)),
    rise=st.none() | RISES,
)
HELD_OUT = st.builds(
    HeldOut,
    pairs=st.just(50),
    accuracy=one_of(None, *map(estimate, (0.2, 0.5, 0.51, 0.7))),
    moved=one_of(None, 0.049, *[3.0] * 5),
    chosen_per_token=one_of(None, -1.0, -0.99, 0.2),
    chosen=one_of(None, estimate(-0.1), estimate(-0.04), estimate(0.1)),
    not_finite=one_of(*[0] * 9, 2),
    length=one_of(None, Length(0.5, estimate(0.1)), Length(0.5, estimate(0.04))),
    ches=one_of(None, *(Ches(estimate(at), (Driver(1, "a", 0.1),), 0.1) for at in (-0.1, 0.1))),
)
LABELS = st.builds(Labels, pairs=st.just(30), flip_rate=one_of(estimate(0.1), estimate(0.05)), label_error=st.just(0.1))
JUDGED = st.builds(
    Judged,
    by=st.just("true reward"),
    grade=one_of(estimate(0.4), estimate(0.6), estimate(0.52)),
    of=st.just(Interval(0.5, 0.5, 0.5)),
    share=st.booleans(),
)
FACTS = st.builds(
    Facts,
    training=st.none() | TRAININGS,
    held_out=st.none() | HELD_OUT,
    labels=st.none() | LABELS,
    judged=st.none() | JUDGED,
)


@settings(max_examples=300, deadline=None)
@given(FACTS)
def test_a_verdict_never_contradicts_itself(facts):
    found = verdict(facts)
    assert sum(finding.rule.leading for finding in found.all) == 1
    assert found.state.rule.leading
    assert len({finding.name for finding in found.all}) == len(found.all)
    assert all(found.state.name in finding.rule.beside for finding in found.findings)
    told = [(each.key, each.direction) for each in found.advice]
    assert len({key for key, _ in told}) == len(told)
    assert not (FURTHER & set(told) and LESS_FAR & set(told)), told
    assert "{" not in paragraph(found)
    gain = facts.judged.gain if facts.judged and not {"unfinished", "diverged"} & {found.state.name} else None
    if gain is not None:  # what samples are worth leads, and else nothing is said of it
        assert (found.state.name == "better") == (gain.low > 0)
        assert (found.state.name == "worse") == (gain.high < 0)
        assert ("no_clear_gain" in [each.name for each in found.findings]) == (gain.low <= 0 <= gain.high)
    json.dumps(document(found), allow_nan=False)


def test_advice_of_all_rules_that_may_meet_has_one_direction_for_each_key():
    """Without looking at facts: a state and every finding beside it, and findings among themselves."""
    for state in STATES:
        beside = [rule for rule in RULES if state.name in rule.beside]
        told = {(advice.key, advice.direction) for rule in (state, *beside) for advice in rule.advice}
        assert len({key for key, _ in told}) == len(told), state.name
        assert not (FURTHER & told and LESS_FAR & told), state.name
