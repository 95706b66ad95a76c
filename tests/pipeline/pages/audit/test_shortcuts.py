"""Shortcuts: their order, their scale, and which are sure."""

import pytest
from audits import auc

from scoreonce.pipeline.pages.audit.shortcuts import is_sure, scale, shortcuts


def test_shortcuts_stand_by_strength_and_gather_their_sources():
    found = shortcuts(
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
