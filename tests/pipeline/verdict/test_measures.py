"""The facts of a verdict, against numbers worked out by hand."""

import polars as pl
import pytest
from scipy import stats

from scoreonce.pipeline.evaluation.summary import evaluation_summary
from scoreonce.pipeline.verdict import measures
from scoreonce.pipeline.verdict.series import loss_rise

NAN = float("nan")


def evaluated(*rows):
    """Pairs from (chosen log-ratio, rejected log-ratio, chosen tokens, rejected tokens); None: no such side."""
    columns = ("chosen_logratios", "rejected_logratios", "chosen_len", "rejected_len")
    table = pl.DataFrame(list(rows), schema=dict.fromkeys(columns, pl.Float64), orient="row").with_columns(
        pl.col("chosen_len", "rejected_len").cast(pl.Int32),
        pair_id=pl.Series([str(i) for i in range(len(rows))]),
        source=pl.lit(None, pl.String),
        ref_chosen_logps=pl.lit(-20.0),
        ref_rejected_logps=pl.lit(-20.0),
    )
    return table.with_columns(
        margin=pl.col("chosen_logratios") - pl.col("rejected_logratios"),
        policy_chosen_logps=pl.col("ref_chosen_logps") + pl.col("chosen_logratios"),
        policy_rejected_logps=pl.col("ref_rejected_logps") + pl.col("rejected_logratios"),
    )


def facts_of(*rows, **ches):
    table = evaluated(*rows)
    return measures.held_out_facts(table, evaluation_summary(table), **ches)


def test_figures_of_pairs():
    """Margins 3, -1, 2: the median of their sizes is 2. Chosen: 2, -2, 1 nats of 4, 10, 2 tokens: 1 / 16 by tokens, and
    0.5, -0.2, 0.5 nats per token, a mean of 0.8 / 3 with a deviation of 0.7 / sqrt 3.
    """
    found = facts_of((2.0, -1.0, 4, 4), (-2.0, -1.0, 10, 4), (1.0, -1.0, 2, 4))
    assert (found.pairs, found.moved, found.not_finite) == (3, 2.0, 0)
    assert found.accuracy.mean == pytest.approx(2 / 3)
    assert found.chosen_per_token == pytest.approx(1 / 16)
    half = 1.959964 * (0.7 / 3**0.5) / 3**0.5
    assert (found.chosen.mean, found.chosen.high) == pytest.approx((0.8 / 3, 0.8 / 3 + half), abs=1e-6)


def test_unpaired_rows_have_no_accuracy_and_move_by_their_log_ratio():
    found = facts_of((2.0, None, 4, 0), (None, -3.0, 0, 4), (0.5, None, 4, 0))
    assert (found.pairs, found.accuracy, found.length, found.moved) == (0, None, None, 2.0)


def test_a_margin_that_is_not_finite_is_counted_and_left_out():
    found = facts_of((NAN, 0.0, 4, 4), (2.0, 0.0, 4, 4))
    assert (found.not_finite, found.moved, found.chosen_per_token) == (1, 2.0, 0.5)


def test_length_is_accuracy_minus_the_controlled_one():
    """Chosen longer in 80 of 100 pairs, of which 72 are right (0.9); shorter in 20, of which 8 are right (0.4).

    Accuracy 0.8, controlled 0.65: length explains 0.3 x 0.5 = 0.15. Newcombe's ends of the difference 0.5 come from
    Wilson's (scipy).
    """
    right, wrong = (1.0, -1.0), (-1.0, 1.0)
    rows = [(*right, 9, 5)] * 72 + [(*wrong, 9, 5)] * 8 + [(*right, 5, 9)] * 8 + [(*wrong, 5, 9)] * 12
    found = facts_of(*rows).length
    a, b = (stats.binomtest(k, n).proportion_ci(0.95, "wilson") for k, n in ((72, 80), (8, 20)))
    low = 0.5 - ((0.9 - a.low) ** 2 + (b.high - 0.4) ** 2) ** 0.5
    high = 0.5 + ((a.high - 0.9) ** 2 + (0.4 - b.low) ** 2) ** 0.5
    assert found.controlled == pytest.approx(0.65)
    explained = found.explained
    assert (explained.mean, explained.low, explained.high) == pytest.approx((0.15, 0.3 * low, 0.3 * high))
    assert evaluation_summary(evaluated(*rows))["accuracy"] - found.controlled == pytest.approx(explained.mean)


def test_shorter_sides_that_are_chosen_explain_too():
    """Chosen shorter in 80 of 100 pairs, all right; longer in 20, all wrong: (0.2 - 0.5) (0 - 1) = 0.3.

    Wilson's ends are 0.161 for 0 of 20 and 0.954 for 80 of 80, so at least 0.3 (1 - 0.168) = 0.25.
    """
    found = facts_of(*[(1.0, -1.0, 5, 9)] * 80, *[(-1.0, 1.0, 9, 5)] * 20).length
    assert found.explained.mean == pytest.approx(0.3)
    assert (found.explained.low, found.explained.high) == pytest.approx((0.25, 0.3), abs=1e-3)


def test_length_is_unknown_without_both_kinds_of_pairs():
    assert facts_of(*[(1.0, -1.0, 9, 5)] * 30).length is None


def test_ches_names_the_training_pairs_with_the_highest_scores():
    """Held-out pairs 0 to 19 with CHES 0 to 19: the ten above the median fall by 2 nats of 10 tokens, the others by 1.

    Of training scores 0 to 100 (rows 100 to 0), the highest three are rows 0, 1, 2, and the quantile 0.95 is 95.
    """
    rows = [(-1.0 - (i >= 10), -5.0, 10, 10) for i in range(20)]
    ches = pl.DataFrame({"pair_id": [str(i) for i in range(20)], "ref_ln_ches": [float(i) for i in range(20)]})
    training = pl.DataFrame(
        {
            "pair_id": [f"t{i}" for i in range(101)],
            "ref_ln_ches": [float(i) for i in range(101)],
            "row": [100 - i for i in range(101)],
        }
    )
    found = facts_of(*rows, ches=ches, training_ches=training).ches
    assert found.difference.mean == pytest.approx(-0.1)
    assert found.difference.high < 0
    assert [(driver.row, driver.pair_id) for driver in found.drivers] == [(0, "t100"), (1, "t99"), (2, "t98")]
    assert found.cut == pytest.approx(95)
    assert facts_of(*rows[:19], ches=ches, training_ches=training).ches is None  # too few
    assert facts_of(*rows, ches=ches.with_columns(ref_ln_ches=None), training_ches=training).ches is None


def test_steps_are_those_of_the_last_tenth():
    """Twenty steps of two pairs: 19 and 20 count, with margins 19, -1, 20, -2."""
    steps = pl.LazyFrame(
        {
            "step": [s for s in range(1, 21) for _ in range(2)],
            "margin": [m for s in range(1, 21) for m in (float(s), 18.0 - s)],
        }
    )
    moved, accuracy = measures.step_facts(steps, 20)
    assert moved == (2 + 19) / 2
    assert accuracy.mean == 0.5
    assert measures.step_facts(steps.filter(pl.col("step") == 1), 1) == (None, None)  # margins before the first update
    assert measures.step_facts(steps.with_columns(margin=pl.lit(None, pl.Float64)), 20) == (None, None)


def test_the_first_step_that_is_not_finite():
    lines = [{"step": 1, "loss": 0.7, "grad_norm": 1.0}, {"step": 2, "loss": 0.6, "grad_norm": None}]
    assert measures.first_not_finite(lines) == 2
    assert measures.first_not_finite(lines[:1]) is None
    assert measures.first_not_finite([{"step": 3, "loss": NAN}]) == 3
    assert measures.first_not_finite([{"step": 4, "loss": 0.1, "grad_norm": float("inf")}]) == 4


def test_beta_at_its_floor_in_three_of_four_steps():
    lines = [{"beta/min": beta} for beta in (0.1, 1e-3, 1e-3, 1e-3)]
    found = measures.at_floor(lines, 1e-3)
    low, high = stats.binomtest(3, 4).proportion_ci(0.95, "wilson")
    assert (found.mean, found.low, found.high) == pytest.approx((0.75, low, high))
    assert measures.at_floor([{"loss": 0.5}], 1e-3) is None


def test_labels_are_the_audits():
    judged = {"pairs": 40, "flip_rate": 0.2, "flip_rate_low": 0.1, "flip_rate_high": 0.3}
    found = measures.label_facts(judged | {"suggested_label_smoothing": 0.1})
    assert (found.pairs, found.flip_rate.low, found.label_error) == (40, 0.1, 0.1)
    assert measures.label_facts(None) is None


# ---- the held-out loss ----


def row(step, losses):
    return {"step": step, "pair_losses": losses}


def lines(*losses):
    return [{"step": i + 1, "loss": loss} for i, loss in enumerate(losses)]


def test_the_rise_is_from_the_lowest_evaluation():
    """Means 0.7, 0.5, 0.9: from step 2 each pair rises by 0.3, 0.4, 0.5. Student's quantile of 2 degrees of freedom at
    0.05 / 2 over two sides, 6.205, times 0.1 / sqrt 3 is 0.3583.
    """
    rows = [row(0, [0.7, 0.7, 0.7]), row(2, [0.4, 0.5, 0.6]), row(4, [0.7, 0.9, 1.1])]
    found = loss_rise(rows, lines(0.7, 0.7, 0.3, 0.3))
    assert (found.step, found.pairs) == (2, 3)
    assert (found.then, found.now) == pytest.approx((0.5, 0.9))
    assert (found.rise.mean, found.rise.low) == pytest.approx((0.4, 0.4 - 0.3583), abs=1e-4)
    assert found.training_change.mean == pytest.approx(-0.4)


def test_training_losses_are_compared_where_they_share_no_steps():
    rows = [row(3, [0.5, 0.5]), row(4, [0.6, 0.7])]
    assert loss_rise(rows, lines(0.7, 0.7, 0.3, 0.3)).training_change is None


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(0, [0.7, 0.7])],
        [row(0, None), row(2, [0.5, 0.4])],
        [row(0, [0.7, 0.7]), row(2, [0.5, 0.5]), row(4, None)],
        [{"step": 0}, {"step": 2}],  # of an earlier version
    ],
)
def test_no_rise_without_the_losses_of_pairs(rows):
    assert loss_rise(rows, lines(0.7, 0.6)) is None
