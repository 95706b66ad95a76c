"""Candidates ranked by a true reward or a judge: intervals of seeds and prompts by hand, and who is tied."""

import math

import pytest

from scoreonce.pipeline.evaluation.graded import graded
from scoreonce.pipeline.evaluation.intervals import Interval
from scoreonce.pipeline.evaluation.standings import Standing, Standings

STUDENT_1, STUDENT_2 = 12.706204736174694, 4.302652729911275  # 97.5 % quantiles, 1 and 2 degrees of freedom
ACCURATE = Interval(0.7, 0.65, 0.75)


def ranked(**grades):
    """Standings by accuracy, in the order of the names, ranked by grades `(mean, half)` of each seed."""
    rows = tuple(Standing(name, len(each), ACCURATE, None, True, True) for name, each in grades.items())
    seeds = {name: [Interval(mean, mean - half, mean + half) for mean, half in each] for name, each in grades.items()}
    return graded(Standings(400, rows), seeds)


def test_grades_lead_and_not_accuracy():
    """2.0 is 0.5 above 1.5: more than 0.1 √2 = 0.141, and for two comparisons 0.141 · 2.2414 / 1.96 = 0.162."""
    found = ranked(a=[(1.5, 0.1)], b=[(2.0, 0.1)], c=[(1.85, 0.1)])
    assert [row.name for row in found.rows] == ["b", "c", "a"]
    assert [row.tied for row in found.rows] == [True, True, False]
    assert found.rows[0].behind is None
    assert (found.rows[0].grade.low, found.rows[0].grade.high) == pytest.approx((1.9, 2.1))
    half = 0.1 * math.sqrt(2) * 2.241402727604947 / 1.959963984540054
    gap = found.rows[1].behind
    assert (gap.low, gap.high) == pytest.approx((0.15 - half, 0.15 + half), rel=1e-9)
    assert found.rows[1].accuracy == ACCURATE
    assert found.pairs == 400


def test_seeds_are_a_term_of_their_own_and_prompts_are_shared():
    """Seeds 1 and 2 deviate by √½, their mean by ½; the prompts' half width stays 0.2, the mean of 0.1 and 0.3."""
    (only,) = ranked(a=[(1.0, 0.1), (2.0, 0.3)]).rows
    half = math.hypot(0.2, STUDENT_1 * 0.5)
    assert (only.grade.mean, only.grade.low, only.grade.high) == pytest.approx((1.5, 1.5 - half, 1.5 + half), rel=1e-9)
    # Both candidates have a variance of ¼ between seeds: two degrees of freedom.
    _, other = ranked(a=[(3.0, 0.1), (4.0, 0.3)], b=[(1.0, 0.2), (2.0, 0.2)]).rows
    half = math.sqrt(0.2**2 + 0.2**2 + STUDENT_2**2 * 0.5)
    assert (other.behind.mean, other.behind.low) == pytest.approx((2.0, 2.0 - half), rel=1e-9)
    assert other.tied
    assert not other.near  # 2.0, and the standard error is √(½ + 2 (0.2 / 1.96)²) = 0.72


def test_a_share_ends_at_1():
    rows = (Standing("a", 1, ACCURATE, None, True, True),)
    (row,) = graded(Standings(9, rows), {"a": [Interval(0.95, 0.85, 1.0)]}, share=True).rows
    assert (row.grade.low, row.grade.high) == pytest.approx((0.85, 1.0))
    (row,) = graded(Standings(9, rows), {"a": [Interval(0.9, 0.8, 1.0), Interval(0.6, 0.5, 0.7)]}, share=True).rows
    assert (row.grade.low, row.grade.high) == (0.0, 1.0)
