"""The chart kit: data as JSON holds them, charts that Vega-Lite accepts, and SVG that is text, not code."""

import json
import re

import altair as alt
import pytest
from audits import EVIL, auc, audit

from scoreonce.pipeline.pages.audit.dynamics_map import dynamics_charts
from scoreonce.pipeline.pages.audit.histogram import histogram_charts
from scoreonce.pipeline.pages.audit.shortcuts import shortcut_rows, strip
from scoreonce.pipeline.pages.charts import ROWS, interval_strip, specification, strip_axis, svg

POINTS = {
    "label": "dpo",
    "x": "mean",
    "y": "spread",
    "pairs": 2,
    "points": [{"mean": 1.5, "spread": 0.5}, {"mean": -0.5, "spread": 0.25}],
    "regions": {"ambiguous": 0, "learned": 1, "hard": 1},
}


def audit_specs():
    (row,) = shortcut_rows([auc("length", 0.74), auc("length", 0.9, "web")])
    return {
        "histogram": histogram_charts(audit()["distributions"])[0].spec,
        "dynamics": dynamics_charts([POINTS])[0].spec,
        "strip": strip(row, (0.38, 0.92)),
        "axis": strip_axis((0.38, 0.92)),
    }


@pytest.mark.parametrize("name", ["histogram", "dynamics", "strip", "axis"])
def test_vega_lite_accepts_the_charts(name):
    """They are made without validation."""
    alt.Chart.from_dict(audit_specs()[name], validate=True)


def test_not_a_number_is_null():
    rows = [{"a": float("nan"), "b": float("inf"), "c": 1.5, "d": "nan", "e": None, "f": 3}]
    spec = specification(alt.Chart(ROWS).mark_point(), rows, height=10)
    assert json.dumps(spec["datasets"]["rows"], allow_nan=False) == json.dumps(
        [{"a": None, "b": None, "c": 1.5, "d": "nan", "e": None, "f": 3}]
    )


def places(drawn, mark):
    """Positions of a chart's marks of one kind, in CSS pixels."""
    group = drawn.partition(f'class="mark-{mark} role-mark')[2].partition("</g>")[0]
    return [tuple(map(float, found)) for found in re.findall(r'transform="translate\(([-\d.]+),([-\d.]+)\)"', group)]


def test_dots_of_all_strips_stand_on_one_axis():
    """A strip is 240 wide with 10 left free on either side: 0, 1/4 and 1 stand at 0, 55 and 220 of its plot."""
    dots = [places(svg(interval_strip((0, 1), (at, at, at), "red")), "symbol")[-1][0] for at in (0.0, 0.25, 1.0)]
    assert dots == pytest.approx([0, 55, 220])


def test_colours_stay_css_variables():
    """So that the same SVG serves light, dark and print."""
    drawn = svg(interval_strip((0, 1), (0.2, 0.3, 0.4), "var(--run-3)"))
    assert 'fill="var(--run-3)"' in drawn
    assert 'stroke="var(--ink-3)"' in drawn


def test_words_become_titles_and_stay_text():
    drawn = svg(interval_strip((0, 1), (0.2, 0.3, 0.4), "red", [(0.6, EVIL), (0.7, 'a "quoted" & plain')]))
    titles = re.findall(r"<title>(.*?)</title>", drawn, re.S)
    assert len(titles) == 2
    assert "<" not in titles[0].replace("\u202e", "")
    assert "&lt;/script&gt;&lt;script&gt;" in titles[0]
    assert "<script" not in drawn
    assert "<img" not in drawn


@pytest.mark.parametrize("name", ["histogram", "dynamics", "strip", "axis"])
def test_an_svg_has_no_id_and_asks_for_nothing(name):
    """Several stand on one page, whose ids are its own."""
    drawn = svg(audit_specs()[name])
    assert " id=" not in drawn
    assert "url(" not in drawn
    assert "href" not in drawn


def test_a_chart_cannot_load_data():
    spec = specification(alt.Chart(alt.UrlData("https://evil.example/x.json")).mark_point(), [], height=10)
    with pytest.raises(ValueError, match=r"evil\.example"):
        svg(spec)
