"""Positions of bins, ticks and dots, worked out by hand."""

import pytest

from scoreonce.pipeline.pages.audit.histogram import histograms


def bins(counts, start=0, width=10):
    return [{"low": start + i * width, "high": start + (i + 1) * width, "count": n} for i, n in enumerate(counts)]


def distribution(counts, name="length", unit="tokens", **more):
    return {"name": name, "title": name, "unit": unit, "bins": bins(counts), **more}


def test_bars_of_one_distribution():
    """Counts 1, 4, 0, 5: the highest fills the figure; half of the 10 lie below 20, and 95% below 30 + 10 x 4.5 / 5."""
    (figure,) = histograms([distribution([1, 4, 0, 5])])
    bars = figure.series[0].bars
    assert [bar.left for bar in bars] == pytest.approx([0, 25, 50, 75])
    assert [bar.height for bar in bars] == pytest.approx([20, 80, 0, 100])
    assert bars[1].words == "10 to 20 tokens: 4"
    assert figure.caption == "half below 20, 95% below 39"
    assert figure.ticks == ((0, "0"), (25, "10"), (50, "20"), (75, "30"), (100, "40"))


def test_distributions_of_a_group_are_drawn_over_each_other():
    """Per unit of the axis 1/40 and 3/40 of one, 1/20 of the other, whose one bin spans the last half."""
    chosen = distribution([1, 3], "chosen", group="completion_length")
    between = distribution([1], "between")
    rejected = {**distribution([], "rejected", group="completion_length"), "bins": bins([7], start=10)}
    figure, _ = histograms([chosen, between, rejected])
    assert figure.title == "Completion length"
    assert [[(bar.left, bar.width) for bar in series.bars] for series in figure.series] == [
        [(0, 50), (50, 50)],
        [(50, 50)],
    ]
    # Shares of 1/4, 3/4 and 1 over 10 tokens each.
    assert [[bar.height for bar in series.bars] for series in figure.series] == [pytest.approx([25, 75]), [100]]
    assert figure.caption == "chosen: half below 13, 95% below 19; rejected: half below 15, 95% below 20"
    assert figure.series[0].paint != figure.series[1].paint


@pytest.mark.parametrize("end", [5000, 31])
def test_a_tail_is_drawn_as_wide_as_the_other_bins(end):
    """Ten tokens a bin, the last from 30 to `end`: it stands from 30 to 40, and its words say how far it reaches."""
    counts = bins([2, 2, 2, 2])
    counts[-1]["high"] = end
    (figure,) = histograms([{**distribution([]), "bins": counts}])
    assert [bar.width for bar in figure.series[0].bars] == pytest.approx([25] * 4)
    assert [bar.height for bar in figure.series[0].bars] == pytest.approx([100] * 4)
    assert figure.series[0].bars[-1].words == f"30 to {end:,} tokens: 2"


def test_a_wide_bin_in_between_is_as_high_as_it_is_dense():
    """Ten a token throughout, one bin spanning 40 tokens instead of ten."""
    parts = [
        {"low": low, "high": high, "count": 10 * (high - low)} for low, high in ((0, 10), (10, 20), (20, 60), (60, 70))
    ]
    (figure,) = histograms([{**distribution([]), "bins": parts}])
    assert [bar.height for bar in figure.series[0].bars] == pytest.approx([100] * 4)
    assert figure.series[0].bars[2].width == pytest.approx(100 * 40 / 70)


def test_a_tail_at_the_beginning():
    counts = bins([2, 2, 2, 2])
    counts[0]["low"] = -70
    (figure,) = histograms([{**distribution([]), "bins": counts}])
    assert figure.ticks[0] == (0, "0")
    assert figure.series[0].bars[0].words == "−70 to 10 tokens: 2"


def test_open_and_empty_bins():
    item = distribution([0, 0])
    assert histograms([item, distribution([])]) == []
    tail = {**item, "bins": [{"low": None, "high": 5, "count": 1}, {"low": 5, "high": None, "count": 9}]}
    (figure,) = histograms([tail])
    assert [bar.words for bar in figure.series[0].bars] == ["below 5 tokens: 1", "5 and more tokens: 9"]
    assert [bar.width for bar in figure.series[0].bars] == [50, 50]
    assert (figure.caption, figure.unit) == ("", "tokens")


def test_one_value_alone():
    (figure,) = histograms([{**distribution([]), "bins": [{"low": 3, "high": 3, "count": 9}]}])
    assert figure.series[0].bars[0].width == 100


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 1, ["0", "0.25", "0.5", "0.75", "1"]),
        (-300, 400, ["−200", "0", "200", "400"]),
        (0, 4000, ["0", "1,000", "2,000", "3,000", "4,000"]),
    ],
)
def test_ticks_are_round(low, high, labels):
    (figure,) = histograms([{**distribution([]), "bins": [{"low": low, "high": high, "count": 1}]}])
    assert [label for _, label in figure.ticks] == labels
