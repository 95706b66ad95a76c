"""Positions of bins, ticks and dots, worked out by hand."""

import pytest

from scoreonce.pipeline.audit_page_figures import histograms, is_sure, scale, shortcuts


def bins(counts, start=0, width=10):
    return [{"low": start + i * width, "high": start + (i + 1) * width, "count": n} for i, n in enumerate(counts)]


def distribution(counts, name="length", unit="tokens", **more):
    return {"name": name, "title": name, "unit": unit, "bins": bins(counts), **more}


def auc(name, value, source=None, half=0.01, pairs=100):
    return {"name": name, "title": name.title(), "source": source, "auc": value, "low": value - half,
            "high": value + half, "pairs": pairs}  # fmt: skip


def test_bars_of_one_distribution():
    """Counts 1, 4, 0, 5: the highest fills the figure; half of the 10 lie below 20, and 95% below 30 + 10 x 4.5 / 5."""
    (figure,) = histograms([distribution([1, 4, 0, 5])])
    bars = figure.series[0].bars
    assert [bar.left for bar in bars] == [0, 25, 50, 75]
    assert [bar.height for bar in bars] == pytest.approx([20, 80, 0, 100])
    assert bars[1].words == "10 to 20 tokens: 4"
    assert figure.caption == "half below 20, 95% below 39 tokens"
    assert figure.ticks == ((0, "0"), (25, "10"), (50, "20"), (75, "30"), (100, "40"))


def test_distributions_of_a_group_share_a_figure_where_their_bins_agree():
    figures = histograms([
        distribution([1, 3], "chosen", group="completion_length"),
        distribution([20, 20], "rejected", group="completion_length"),
        distribution([1, 2, 3], "other", group="completion_length"),
    ])  # fmt: skip
    assert [len(figure.series) for figure in figures] == [2, 1]
    assert figures[0].title == "Completion length"
    # Shares are drawn, 1/4, 3/4 and 1/2 twice; the highest fills the figure.
    assert [[bar.height for bar in series.bars] for series in figures[0].series] == [
        pytest.approx([100 / 3, 100]), pytest.approx([200 / 3, 200 / 3])]
    assert len({series.paint for series in figures[0].series}) == 2


def test_open_and_empty_bins():
    item = distribution([0, 0])
    assert histograms([item, distribution([])]) == []
    tail = {**item, "bins": [{"low": None, "high": 5, "count": 1}, {"low": 5, "high": None, "count": 9}]}
    (figure,) = histograms([tail])
    assert [bar.words for bar in figure.series[0].bars] == ["below 5 tokens: 1", "5 and more tokens: 9"]
    assert figure.ticks == ((50, "5"),)
    assert figure.caption == "unit: tokens"


def test_shortcuts_stand_by_strength_and_gather_their_sources():
    found = shortcuts([auc("list", 0.55), auc("length", 0.3), auc("list", 0.9, "web"), auc("first", 0.5),
                       {**auc("refusal", 0.5), "auc": None}])  # fmt: skip
    assert [item.title for item in found] == ["Length", "List", "First"]
    assert [entry["source"] for entry in found[1].sources] == ["web"]


def test_the_scale_holds_everything_and_one_half():
    axis = scale(shortcuts([auc("length", 0.74), auc("length", 0.9, "web")]))
    assert (axis.low, axis.high) == pytest.approx((0.38, 0.92))
    assert axis.at(0.5) == pytest.approx(100 * 0.12 / 0.54)
    # Nothing found: a tenth on either side of one half.
    assert (scale([]).low, scale([]).high) == pytest.approx((0.38, 0.62))


def test_an_interval_around_one_half_is_not_sure():
    assert is_sure(auc("length", 0.52))
    assert is_sure(auc("length", 0.48))
    assert not is_sure(auc("length", 0.505))
    assert not is_sure({**auc("length", 0.7), "low": None, "high": None})
