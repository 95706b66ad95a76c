"""The best evaluation and the end by patience, from rows written by hand."""

import math

import pytest

from scoreonce.pipeline.evaluation.choice import beats_start, best_row, is_over


def rows(*values, metric="loss"):
    """An evaluation before the first step, and one after every tenth."""
    return [{"step": 10 * number, metric: value} for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "metric", "step"),
    [
        ([0.7, 0.6, 0.5, 0.55], "loss", 20),
        ([0.5, 0.6, 0.8, 0.7], "accuracy", 20),
        ([0.0, 2.0, 1.0, 2.0], "margin", 10),  # the first of equals
        ([0.1, 0.6, 0.5], "loss", 20),  # the start is not a step
        ([0.7, None, math.nan, 0.9], "loss", 30),
        ([0.7], "loss", None),
        ([0.7, None], "loss", None),
    ],
)
def test_the_best_step(values, metric, step):
    best = best_row(rows(*values, metric=metric), metric)
    assert (best and best["step"]) == step


def test_patience_counts_evaluations_since_the_best():
    """Best after 20; after 30 one evaluation without a better one, after 40 two. A better one begins anew."""
    values = [0.7, 0.6, 0.5, 0.55, 0.52]
    over = [is_over(rows(*values[:count]), "loss", 2) for count in range(1, 6)]
    assert over == [False, False, False, False, True]
    assert not is_over(rows(*values[:4], 0.4), "loss", 2)
    assert not is_over(rows(*values), "loss", None)


def test_patience_ends_a_run_whose_figures_are_never_known():
    assert [is_over(rows(0.7, *[None] * count), "loss", 2) for count in (0, 1, 2)] == [False, False, True]


def test_whether_the_start_is_beaten():
    assert beats_start(rows(0.7, 0.6), "loss") is True
    assert beats_start(rows(0.5, 0.6, 0.5), "loss") is False
    assert beats_start(rows(0.5, 0.6, metric="accuracy"), "accuracy") is True
    assert beats_start(rows(0.5), "loss") is None
    assert beats_start([{"step": 10, "loss": 0.5}], "loss") is None  # a run that was not watched from the start
