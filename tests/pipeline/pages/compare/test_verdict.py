"""What a comparison says: one that is clearly best, ties, nothing above chance, one candidate."""

from scoreonce.pipeline.evaluation.intervals import Interval
from scoreonce.pipeline.evaluation.standings import Standing, Standings
from scoreonce.pipeline.pages.compare.verdict import Decision, decision, remarks


def row(name, mean, behind=None, *, low=None, seeds=2, near=True):
    accuracy = Interval(mean, mean - 0.05 if low is None else low, mean + 0.05)
    gap = None if behind is None else Interval(*behind)
    return Standing(name, seeds, accuracy, gap, behind is None or behind[1] <= 0, near)


def test_one_that_is_clearly_best_is_taken_whatever_it_moved():
    found = Standings(400, (row("dpo", 0.7), row("ipo", 0.6, (0.1, 0.02, 0.18))))
    made = decision(found, {"dpo": 2.0, "ipo": 0.1})
    assert made.recommended == "dpo"
    assert made.reason == (
        "dpo is best with 70.0% (65.0% to 75.0%) over 400 held-out pairs, 10.0 points ahead of ipo (2.0 to 18.0)."
    )


def test_of_those_near_the_best_the_one_that_moved_least():
    """The third is tied as well, and much further behind; the fourth is not tied."""
    tied = row("b", 0.69, (0.01, -0.04, 0.06)), row("c", 0.6, (0.1, -0.01, 0.2), near=False)
    found = Standings(400, (row("a", 0.7), *tied, row("d", 0.55, (0.15, 0.1, 0.2), near=False)))
    made = decision(found, {"a": 0.9, "b": -0.2, "c": 0.0, "d": 0.0})
    assert made.recommended == "b"
    assert made.reason.startswith("3 of 4 candidates are tied: 400 held-out pairs do not tell them apart.")
    assert "Of the 2 within one standard error of the best, b moved least from the reference, −0.200" in made.reason
    alone = Standings(400, (row("a", 0.7), tied[1]))
    made = decision(alone, {"a": 0.9, "c": 0.0})
    assert made.recommended == "a"
    assert "a is ahead, with 70.0% (65.0% to 75.0%), and no other is within one standard error" in made.reason


def test_how_many_pairs_would_tell():
    """A difference of 1 point with a half width of 5 takes 25 times the pairs; with seeds nothing is said."""
    rows = (row("a", 0.7, seeds=1), row("b", 0.69, (0.01, -0.04, 0.06), seeds=1))
    made = decision(Standings(400, rows), {"a": 0.1, "b": 0.2})
    assert "All candidates are tied" in made.reason
    assert "10,000 pairs would tell the first two apart if they differ by 1.0 points." in made.reason
    assert made.reason.endswith("--seeds 3 shows it.")
    rows = (row("a", 0.7), row("b", 0.69, (0.01, -0.04, 0.06)))
    assert "would tell" not in decision(Standings(400, rows), {"a": 0.1, "b": 0.2}).reason


def test_nothing_is_taken_where_chance_would_do_as_well():
    found = Standings(40, (row("a", 0.53, low=0.45), row("b", 0.5, (0.03, -0.1, 0.16))))
    made = decision(found, {"a": 0.0, "b": 0.0})
    assert made.recommended is None
    assert made.reason.startswith("The data cannot tell: a is best with 53.0% (45.0% to 58.0%)")


def test_a_single_candidate():
    made = decision(Standings(40, (row("a", 0.7),)), {"a": 0.0})
    assert made.recommended == "a"
    assert made.reason.endswith("there is nothing to compare it with.")


def test_a_leading_value_at_the_end_of_those_compared_is_said_to_be_one():
    """Of the rates 1, 2 and 3 of dpo the second leads, then the third; neither ipo's rate nor the share counts."""
    settings = {
        **{
            f"dpo{rate}": {"train.method": "dpo", "train.learning_rate": rate, "train.share": rate}
            for rate in (1, 2, 3)
        },
        "ipo": {"train.method": "ipo", "train.learning_rate": 9, "train.loss": "x"},
    }
    found = Standings(400, tuple(row(name, 0.7) for name in settings))
    assert remarks(found, settings, Decision("dpo2", "")) == []
    assert remarks(found, settings, Decision("ipo", "")) == []
    assert remarks(found, settings, Decision("dpo3", "")) == [
        "dpo3 has the largest learning_rate of those compared: a larger one may be better."
    ]
    (said,) = remarks(found, settings, Decision(None, ""))  # of the best, dpo1
    assert said == "dpo1 has the smallest learning_rate of those compared: a smaller one may be better."


def test_values_that_are_no_numbers_have_no_end():
    settings = {f"a{n}": {"train.method": "a", "train.lora_targets": [n], "train.flag": bool(n)} for n in (0, 1)}
    found = Standings(400, tuple(row(name, 0.7) for name in settings))
    assert remarks(found, settings, Decision("a1", "")) == []


def test_candidates_below_chance_are_named():
    settings = {name: {"train.method": name} for name in ("a", "b", "c")}
    found = Standings(400, (row("a", 0.7), row("b", 0.44), row("c", 0.46)))  # up to 0.49 and 0.51
    (said,) = remarks(found, settings, Decision("a", ""))
    assert said.startswith("Below chance on the held-out pairs: b. ")
