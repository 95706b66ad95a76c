"""Histograms, conditions to fail on, conditions to select by, and training dynamics."""

import math

import polars as pl
import pytest

from scoreonce.pipeline.audit.checks import training_dynamics as dynamics
from scoreonce.pipeline.audit.checks.check import judged
from scoreonce.pipeline.audit.checks.distributions import Distribution, histograms
from scoreonce.pipeline.audit.checks.fail_on import Threshold, met, parse
from scoreonce.pipeline.audit.checks.pair_filter import condition, kept, remaining
from scoreonce.pipeline.audit.summary.sources import by_source
from scoreonce.schemas.errors import InputError


def drawn(values: list, **options) -> dict:
    frame = pl.DataFrame({"x": values}, schema={"x": pl.Float64}).lazy()
    return histograms(frame, [Distribution("x", "x", "nats", pl.col("x"), **options)])[0]


def test_every_finite_value_is_in_one_bin():
    values = [float(i % 97) for i in range(1000)] + [1e9, -5.0, math.nan, math.inf, None]
    bins = drawn(values)["bins"]
    assert sum(each["count"] for each in bins) == 1002
    assert (bins[0]["low"], bins[-1]["high"]) == (-5.0, 1e9)
    assert all(one["high"] == other["low"] for one, other in zip(bins, bins[1:], strict=False))
    assert max(each["count"] for each in bins) < 100  # the outlier did not flatten the rest


def test_whole_numbers_have_whole_edges():
    """1, 1, 2, 3: a bin each, the last with its high end."""
    assert [(each["low"], each["high"], each["count"]) for each in drawn([1, 1, 2, 3], whole=True)["bins"]] == [
        (1, 2, 2),
        (2, 3, 2),
    ]


@pytest.mark.parametrize("values", [[4.0], [4.0, 4.0]])
def test_one_value_is_one_bin(values):
    assert [each["count"] for each in drawn(values)["bins"]] == [len(values)]


def test_nothing_to_draw_and_columns_that_are_not_there():
    frame = pl.DataFrame({"x": [None, math.nan]}, schema={"x": pl.Float64}).lazy()
    assert histograms(frame, [Distribution("x", "x", "", pl.col("x")), Distribution("y", "y", "", pl.col("y"))]) == []


def test_distributions_of_a_group_have_the_same_bins():
    frame = pl.DataFrame({"x": [1.0, 2.0, 3.0], "y": [7.0, 8.0, 9.0]}).lazy()
    both = histograms(frame, [Distribution(name, name, "", pl.col(name), "both") for name in ("x", "y")])
    edges = [[(each["low"], each["high"]) for each in one["bins"]] for one in both]
    assert edges[0] == edges[1]
    assert [sum(each["count"] for each in one["bins"]) for one in both] == [3, 3]


def test_conditions_to_fail_on():
    assert parse("duplicate_pair, contradictory_pair>0.01,crowded_prompt > 100,") == [
        Threshold("duplicate_pair"),
        Threshold("contradictory_pair", 0.01),
        Threshold("crowded_prompt", 100.0),
    ]


@pytest.mark.parametrize("text", ["a b", "x>", "x>y", "x>1.2.3", "x<1", ">1"])
def test_conditions_that_cannot_be_read(text):
    with pytest.raises(InputError, match="--fail-on is invalid"):
        parse(text)


FOUND = [{"name": "a", "rows": 3, "share": 0.03}, {"name": "b", "rows": 0, "share": 0.0}]


@pytest.mark.parametrize(
    ("text", "count"),
    [("a", 1), ("b", 0), ("a>0.02", 1), ("a>0.03", 0), ("a>2", 1), ("a>3", 0), ("a,b", 1), ("rule_x", 0)],
)
def test_what_is_met(text, count):
    assert len(met(parse(text), FOUND)) == count


def test_a_finding_that_is_not_looked_for():
    with pytest.raises(InputError, match="does not have") as error:
        met(parse("abc"), [{"name": "abd", "rows": 0, "share": 0.0}])
    assert "Did you mean 'abd'" in str(error.value)


PAIRS = pl.DataFrame({"flag": [True, False, None], "n": [1, 2, 3], "source": ["x", "y", None]}).lazy()


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ("flag", [0]),
        ("NOT flag", [1]),
        ("n > 1", [1, 2]),
        ("source = 'x' OR n = 3", [0, 2]),
        ("source IS NULL", [2]),
        ("TRUE", [0, 1, 2]),
        ("n IN (1, 3)", [0, 2]),
        ("n BETWEEN 2 AND 3 AND source LIKE 'y%'", [1]),
    ],
)
def test_pairs_for_which_a_condition_holds(where, numbers):
    expression, reads = condition(where, ["flag", "n", "source"])
    assert set(reads) <= {"flag", "n", "source"}
    assert kept(PAIRS, expression, where).tolist() == numbers


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("SELECT n", "not a valid SQL expression"),
        ("n >", "not a valid SQL expression"),
        ("m > 1", "no column named m"),
        ("n", "not boolean"),
        ("n > 5", "for no training pair"),
        ("source > n", "cannot be evaluated"),
    ],
)
def test_conditions_that_select_nothing(where, says):
    with pytest.raises(InputError, match=says):
        kept(PAIRS, condition(where, ["flag", "n", "source"])[0], where)


def test_pairs_that_no_finding_concerns():
    """A finding that cannot judge a pair (null) does not concern it."""
    both = PAIRS.with_columns(other=pl.Series([False, True, False]))
    assert remaining(both, ["flag"], ["flag", "other"]).tolist() == [1, 2]
    assert remaining(both, ["flag", "other"], ["flag", "other"]).tolist() == [2]
    with pytest.raises(InputError, match="Every training pair"):
        remaining(PAIRS.with_columns(other=pl.lit(value=True)), ["other"], ["other"])
    with pytest.raises(InputError, match="Did you mean 'flag'"):
        remaining(both, ["flags"], ["flag", "other"])


def test_an_unknown_column_names_the_nearest_and_all():
    with pytest.raises(InputError) as error:
        condition("sorce = 'x'", ["flag", "n", "source"])
    assert "Did you mean 'source'" in str(error.value)
    assert "flag, n, source" in str(error.value)


def steps() -> pl.LazyFrame:
    """Four pairs over three epochs: learned, dropped always, never moved, hard."""
    margins = {
        "learned": [0.0, 4.0, 8.0],
        "dropped": [0.0, 1.0, 2.0],
        "still": [0.01, 0.01, 0.02],
        "hard": [0.0, -3.0, -6.0],
    }
    rows = [
        {
            "step": epoch * 4 + i + 1,
            "epoch": epoch,
            "pair_id": name,
            "margin": margin,
            "beta": 0.1 * (epoch + 1),
            "weight": 0.0 if name == "dropped" or (name == "hard" and epoch == 0) else 1.0,
            "loss": 1.0,
        }
        for i, (name, values) in enumerate(margins.items())
        for epoch, margin in enumerate(values)
    ]
    return pl.DataFrame(rows).lazy()


def trained() -> pl.LazyFrame:
    ids = pl.DataFrame(
        {
            "pair_id": ["learned", "dropped", "still", "hard", "heldout"],
            "row": range(5),
            "split": ["train"] * 4 + ["test"],
            "source": ["a", "b", "a", "b", "a"],
        }
    ).lazy()
    return ids.join(dynamics.by_pair(steps(), "my-run"), on="pair_id", how="left", maintain_order="left")


def test_what_training_made_of_a_pair():
    """Margins 0, 4, 8: mean 4, standard deviation 4, range 8, last 8."""
    row = trained().collect().row(0, named=True)
    expected = {
        "visits": 3,
        "drops": 0,
        "margin_mean": 4.0,
        "margin_spread": 4.0,
        "margin_range": 8.0,
        "margin_last": 8.0,
        "loss_last": 1.0,
        "beta_mean": 0.2,
        "beta_spread": 0.1,
    }
    assert {name: row[f"my_run_{name}"] for name in expected} == pytest.approx(expected)


def test_checks_of_a_training_run():
    typical = dynamics.median_range(trained(), "my-run")
    assert typical == pytest.approx((2 + 6) / 2)
    checks = dynamics.training_checks("my-run", typical)
    table = judged(trained(), checks).collect()
    assert {check.name: table.filter(check.name)["pair_id"].to_list() for check in checks} == {
        "my_run_dropped": ["dropped"],
        "my_run_not_learned": ["hard"],
        "my_run_unmoved": ["still"],
    }


def test_the_map_of_a_training_run():
    found = dynamics.dynamics_map(trained(), "my-run")
    assert found["pairs"] == 4
    assert sum(found["regions"].values()) == 4
    assert {point["pair_id"]: point["mean"] for point in found["points"]}["hard"] == -3.0


def test_one_epoch_has_neither_map_nor_unmoved_pairs():
    once = dynamics.by_pair(steps().filter(pl.col("epoch") == 0), "x")
    once = once.with_columns(row=1, split=pl.lit("train"), source=pl.lit("a"))
    assert dynamics.median_range(once, "x") is None
    assert dynamics.dynamics_map(once, "x") is None
    assert [check.name for check in dynamics.training_checks("x", None)] == ["x_dropped", "x_not_learned"]


def test_measures_of_training_by_source():
    """Source b: one pair dropped at all three visits, one at one of three."""
    table = by_source(trained(), dynamics.training_measures("my-run"))
    by_name = {row["source"]: row for row in table}
    assert by_name["b"]["my_run_dropped_visits"] == pytest.approx(4 / 6)
    assert by_name["b"]["my_run_accuracy"] == 0.5
    assert by_name["a"]["my_run_dropped_visits"] == 0.0
    assert (by_name["a"]["pairs"], by_name["a"]["share"]) == (3, 0.6)


def test_held_out_pairs_that_every_policy_got_wrong():
    margins = ([-1.0, -1.0], [-2.0, 3.0])
    evaluated = [pl.DataFrame({"pair_id": ["a", "b"], "margin": values}).lazy() for values in margins]
    pairs = pl.DataFrame({"pair_id": ["a", "b", "c"]}).lazy()
    for label, frame in zip("xy", evaluated, strict=True):
        pairs = pairs.join(dynamics.evaluation_columns(frame, label), on="pair_id", how="left", maintain_order="left")
    both, one = (judged(pairs, dynamics.evaluation_checks(labels)).collect() for labels in (["x", "y"], ["x"]))
    assert both["heldout_against_label"].to_list() == [True, False, False]
    assert one["heldout_against_label"].to_list() == [True, True, False]
    assert dynamics.evaluation_checks([]) == ()
