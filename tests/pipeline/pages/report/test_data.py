"""Tables behind the page, facts of the lineage, and numbers as the page writes them."""

import polars as pl

from scoreonce.pipeline.pages.numbers import clock, duration, fixed, number, percent, points, shown, signed, size
from scoreonce.pipeline.pages.report.data import final_mean, metrics_table, step_bands
from scoreonce.pipeline.pages.report.lineage import data_facts, quarantine

NAN = float("nan")


def steps_table(steps, margin, beta=0.1):
    """Four pairs a step, with margins up to `margin` x the step."""
    rows = [
        {"step": s, "margin": margin * s * k / 4, "beta": beta * k if isinstance(beta, float) else None, "weight": 1.0}
        for s in range(1, steps + 1)
        for k in range(1, 5)
    ]
    return pl.DataFrame(rows, schema_overrides={"beta": pl.Float64})


def test_a_repeated_step_counts_once_as_last_written():
    table = metrics_table(
        [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "loss": 1.0, "note": "resumed"}]
    )
    assert table["loss"].to_list() == [3.0, 1.0]
    assert "note" not in table.columns


def test_bands_are_quantiles_of_groups_of_steps():
    """Steps 1 to 4 in two groups: margins 1..4 x (1/4..1) x step; medians over both steps of a group."""
    bands = step_bands(steps_table(4, 4.0).lazy(), 2).collect()
    assert bands["step"].to_list() == [2, 4]
    # step 1: 1 2 3 4, step 2: 2 4 6 8: sorted 1 2 2 3 4 4 6 8, the middle of 3 and 4
    assert bands["margin_p50"].to_list() == [3.5, 8.5]
    assert bands["kept"].to_list() == [1.0, 1.0]


def test_bands_pass_over_missing_values():
    steps = pl.DataFrame(
        {"step": [1, 1], "margin": [NAN, 2.0], "beta": pl.Series([None, None], dtype=pl.Float64), "weight": [0.0, 1.0]}
    )
    row = step_bands(steps.lazy(), 10).collect().row(0, named=True)
    assert (row["margin_p50"], row["beta_p50"], row["kept"]) == (2.0, None, 0.5)


def test_final_mean_is_of_the_last_tenth():
    table = metrics_table([{"step": s, "loss": float(s)} for s in range(1, 21)])
    assert final_mean(table, "loss") == 19.5
    assert final_mean(table, "absent") is None


def test_facts_of_the_data():
    manifest = {
        "inputs": {"hh.jsonl": {"sha256": "abcdef" * 10}},
        "counts": {
            "raw": 2000,
            "train": 1700,
            "test": 200,
            "quarantined": 100,
            "by_reason": {"identical_sides": 30, "blank_chosen": 70},
        },
        "truncated": {"chosen": 4},
        "boundary_merged": 5,
        "tokenizer": {"name": "tiny", "vocab_size": 97, "digest": "ff" * 16},
    }
    facts = dict(data_facts(manifest))
    assert facts["input"] == "hh.jsonl, sha256 abcdefabcdef…"
    assert facts["quarantined"] == "100 (5.0%)"
    assert facts["truncated: chosen"] == "4"
    assert quarantine(manifest) == [("blank chosen", "70", "3.5%"), ("identical sides", "30", "1.5%")]


def test_numbers_as_people_read_them():
    assert [number(v) for v in (1234567, 0.123456, 12.3456, -0.5, 5e-7, 0.0, NAN, None, 1e9)] == [
        "1,234,567",
        "0.123",
        "12.3",
        "−0.500",
        "5.00e−7",
        "0",
        "NaN",
        "–",
        "1,000,000,000",
    ]
    assert (percent(0.7125), percent(None), points(-0.012), signed(1.5)) == ("71.2%", "–", "−1.2", "+1.50")
    assert (fixed(-1.234), fixed(NAN)) == ("−1.23", "–")
    assert [clock(s) for s in (0.4, 91, 7500, None)] == ["0:00:00", "0:01:31", "2:05:00", "–"]
    assert [duration(s) for s in (0.04, 3.21, 42, 200, 7500, 90_000, None)] == [
        "40 milliseconds",
        "3.2 seconds",
        "42 seconds",
        "3 minutes and 20 seconds",
        "2 hours and 5 minutes",
        "25 hours",
        "–",
    ]
    assert [size(n) for n in (100, 12_288, 1_288_490_189)] == ["100 Bytes", "12.0 KiB", "1.2 GiB"]
    assert [shown(v) for v in (True, 5e-7, 0.1, [1, 2], None, "x")] == ["yes", "5e-7", "0.1", "1, 2", "–", "x"]
