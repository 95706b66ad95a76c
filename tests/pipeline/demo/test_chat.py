"""The chat demo's questions are disjoint; its rule is worked out by hand."""

import pytest

from scoreonce.pipeline.demo.chat import QUESTIONS, SUBJECTS, questions, score

BREAD = "In a few words, what is bread?"


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("Bread is a baked food.", -5),  # five words, and it says what it is about
        ("Breads are baked from flour, water and salt.", -8),
        ("BREAD! Bread's what bakers bake.", -5),  # "bread's" is one word
        ("It is a baked food.", -5 - 100),  # about nothing that was asked for
        ("Bread is food.", -3 - 100),  # fewer than five words
        ("Breadth is a kind of width.", -6 - 100),  # another word
        ("", -100),
    ],
)
def test_the_rule_by_hand(completion, expected):
    assert score(BREAD, completion) == expected
    assert (
        score([{"role": "system", "content": "About rain."}, {"role": "user", "content": BREAD}], completion)
        == expected
    )


def test_every_question_has_a_subject_that_the_rule_finds():
    """An answer of five words that repeats the subject is sensible, one that does not is not."""
    for question in questions(0, answered=len(QUESTIONS) * len(SUBJECTS), unseen=0)[0]:
        subject = next(each for each in SUBJECTS if f" {each}" in question)
        assert score(question, f"one two three four {subject}") in (-5, -6), question
        assert score(question, "one two three four five") == -105, question


def test_questions_are_disjoint_and_follow_the_seed():
    answered, unseen = questions(3, answered=200, unseen=40)
    assert len({*answered, *unseen}) == 240
    assert questions(3, answered=200, unseen=40) == (answered, unseen)
    assert questions(4, answered=200, unseen=40) != (answered, unseen)
    with pytest.raises(ValueError, match="240 questions, not 241"):
        questions(3, answered=200, unseen=41)
