"""Shortcuts: their order, their axis, their charts, and which are sure."""

import pytest
from audits import auc

from scoreonce.pipeline.pages.audit.shortcuts import domain, is_sure, shortcut_rows, strip


def test_shortcuts_stand_by_strength_and_gather_their_sources():
    found = shortcut_rows(
        [
            auc("list", 0.55),
            auc("length", 0.3),
            auc("list", 0.9, "web"),
            auc("first", 0.5),
            {**auc("refusal", 0.5), "auc": None},
        ]
    )
    assert [item.title for item in found] == ["Length", "List", "First"]
    assert [entry["source"] for entry in found[1].sources] == ["web"]


def test_the_axis_holds_everything_and_one_half():
    assert domain(shortcut_rows([auc("length", 0.74), auc("length", 0.9, "web")])) == pytest.approx((0.38, 0.92))
    # Nothing found: a tenth on either side of one half, and a little room.
    assert domain([]) == pytest.approx((0.38, 0.62))


def test_a_strip_has_its_interval_and_a_dot_per_source():
    (row,) = shortcut_rows([auc("length", 0.74), auc("length", 0.9, "web <b>")])
    spec = strip(row, (0.38, 0.92))
    assert spec["datasets"]["rows"] == [{"low": 0.73, "at": 0.74, "high": 0.75}]
    chance, interval, sources, dot = spec["layer"]
    assert chance["data"]["values"] == [{"at": 0.5}]
    assert interval["encoding"]["x"]["field"] == "low"
    assert interval["encoding"]["x2"]["field"] == "high"
    assert sources["data"]["values"] == [{"at": 0.9, "words": "web <b>: 0.90"}]
    assert dot["encoding"]["x"]["field"] == "at"
    assert [layer["encoding"]["x"]["scale"]["domain"] for layer in spec["layer"]] == [[0.38, 0.92]] * 4


def test_a_strip_without_interval_or_without_any_figure_of_the_whole():
    (alone,) = shortcut_rows([{**auc("length", 1.0), "low": None, "high": None}])
    assert strip(alone, (0, 1))["datasets"]["rows"] == [{"low": 1.0, "at": 1.0, "high": 1.0}]
    (source,) = shortcut_rows([auc("length", 0.9, "web")])
    assert strip(source, (0, 1))["datasets"]["rows"] == []


def test_an_interval_around_one_half_is_not_sure():
    assert is_sure(auc("length", 0.52))
    assert is_sure(auc("length", 0.48))
    assert not is_sure(auc("length", 0.505))
    assert not is_sure({**auc("length", 0.7), "low": None, "high": None})
