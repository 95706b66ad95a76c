"""Histograms as data on their way to altair: ends and densities of bins, words and captions, worked out by hand."""

import pytest

from scoreonce.pipeline.pages.audit.histogram import histogram_charts


def bins(counts, start=0, width=10):
    return [{"low": start + i * width, "high": start + (i + 1) * width, "count": n} for i, n in enumerate(counts)]


def distribution(counts, name="length", unit="tokens", **more):
    return {"name": name, "title": name, "unit": unit, "bins": bins(counts), **more}


def rows(chart):
    return chart.spec["datasets"]["rows"]


def column(chart, name):
    return [row[name] for row in rows(chart)]


def test_bins_of_one_distribution():
    """Of 10 values 1, 4, 0 and 5 in bins of ten tokens; half lie below 20, and 95% below 30 + 10 x 4.5 / 5."""
    (chart,) = histogram_charts([distribution([1, 4, 0, 5])])
    assert [(row["low"], row["high"]) for row in rows(chart)] == [(0, 10), (10, 20), (20, 30), (30, 40)]
    assert column(chart, "density") == pytest.approx([0.01, 0.04, 0, 0.05])
    assert column(chart, "words")[1] == "10 to 20 tokens: 4"
    assert (chart.caption, chart.detail, chart.legend) == ("half below 20, 95% below 39", "tokens", ())


def test_distributions_of_a_group_are_drawn_over_each_other():
    """Shares of 1/4, 3/4 and 1 over 10 tokens each; the one bin of the other spans the last half."""
    chosen = distribution([1, 3], "chosen", group="completion_length")
    between = distribution([1], "between")
    rejected = {**distribution([], "rejected", group="completion_length"), "bins": bins([7], start=10)}
    chart, _ = histogram_charts([chosen, between, rejected])
    assert chart.title == "Completion length"
    assert [(row["series"], row["low"], row["high"], row["density"]) for row in rows(chart)] == [
        ("chosen", 0, 10, 0.025),
        ("chosen", 10, 20, 0.075),
        ("rejected", 10, 20, 0.1),
    ]
    assert column(chart, "words")[2] == "rejected, 10 to 20 tokens: 7"
    assert chart.caption == "chosen: half below 13, 95% below 19; rejected: half below 15, 95% below 20"
    assert chart.legend == (("chosen", "var(--chosen)"), ("rejected", "var(--rejected)"))
    assert chart.spec["layer"][0]["encoding"]["color"]["scale"] == {
        "domain": ["chosen", "rejected"],
        "range": ["var(--chosen)", "var(--rejected)"],
    }


@pytest.mark.parametrize("end", [5000, 31])
def test_a_tail_is_drawn_as_wide_as_the_other_bins(end):
    """Ten tokens a bin, the last from 30 to `end`: it stands from 30 to 40, and its words say how far it reaches."""
    counts = bins([2, 2, 2, 2])
    counts[-1]["high"] = end
    (chart,) = histogram_charts([{**distribution([]), "bins": counts}])
    assert column(chart, "high") == [10, 20, 30, 40]
    assert column(chart, "density") == pytest.approx([0.025] * 4)
    assert column(chart, "words")[-1] == f"30 to {end:,} tokens: 2"


def test_a_wide_bin_in_between_is_as_high_as_it_is_dense():
    """Ten a token throughout, of 700 in all; one bin spans 40 tokens instead of ten."""
    parts = [
        {"low": low, "high": high, "count": 10 * (high - low)} for low, high in ((0, 10), (10, 20), (20, 60), (60, 70))
    ]
    (chart,) = histogram_charts([{**distribution([]), "bins": parts}])
    assert column(chart, "density") == pytest.approx([10 / 700] * 4)
    assert (rows(chart)[2]["low"], rows(chart)[2]["high"]) == (20, 60)


def test_a_tail_at_the_beginning():
    counts = bins([2, 2, 2, 2])
    counts[0]["low"] = -70
    (chart,) = histogram_charts([{**distribution([]), "bins": counts}])
    assert column(chart, "low")[0] == 0
    assert column(chart, "words")[0] == "−70 to 10 tokens: 2"


def test_open_and_empty_bins():
    item = distribution([0, 0])
    assert histogram_charts([item, distribution([])]) == []
    tail = {**item, "bins": [{"low": None, "high": 5, "count": 1}, {"low": 5, "high": None, "count": 9}]}
    (chart,) = histogram_charts([tail])
    assert column(chart, "words") == ["below 5 tokens: 1", "5 and more tokens: 9"]
    assert [(row["low"], row["high"]) for row in rows(chart)] == [(4, 5), (5, 6)]
    assert (chart.caption, chart.detail) == ("", "tokens")


def test_one_value_alone_has_room_on_both_sides():
    (chart,) = histogram_charts([{**distribution([]), "bins": [{"low": 3, "high": 3, "count": 9}]}])
    assert [(row["low"], row["high"], row["density"]) for row in rows(chart)] == [(3, 4, 1)]
    assert chart.spec["layer"][0]["encoding"]["x"]["scale"]["padding"] > 100
    (chart,) = histogram_charts([distribution([1, 1])])
    assert chart.spec["layer"][0]["encoding"]["x"]["scale"]["padding"] == 0


def test_low_bars_can_be_pointed_at():
    """Over a single series lie invisible bars of full height that carry the words; overlaid ones carry their own."""
    (chart,) = histogram_charts([distribution([1, 4])])
    visible, invisible = chart.spec["layer"]
    assert visible["mark"]["aria"] is False
    assert invisible["mark"]["opacity"] == 0
    assert "y" not in invisible["encoding"]
    (chart,) = histogram_charts([distribution([1, 4], name, group="g") for name in "ab"])
    assert [layer["mark"]["aria"] for layer in chart.spec["layer"]] == [True]


def test_greek_titles_keep_their_letter():
    (chart,) = histogram_charts([distribution([1, 4], "dpo", group="β by pair")])
    assert chart.title == "β by pair"
