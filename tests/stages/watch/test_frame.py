"""Figures and charts of runs, by numbers worked out by hand."""

import math

import pytest

from scoreonce.stages.watch.curve import Curve, drawn
from scoreonce.stages.watch.figures import last, recent, seconds_left, series, thinned
from scoreonce.stages.watch.frame import frame
from scoreonce.stages.watch.runs import RunState


def of(values, label="dpo", state="training", steps=100, unreadable=0):
    rows = [
        {"step": number, "loss": value, "perf/seconds": 2.0, "perf/pairs_per_second": 4.0}
        for number, value in enumerate(values, 1)
    ]
    return RunState(label, state, rows, steps, unreadable)


def test_figures_leave_out_what_is_no_number():
    rows = of([0.5, None, math.inf, 0.25, None]).rows
    assert series(rows, "loss") == ([1.0, 4.0], [0.5, 0.25])
    assert last(rows, "loss") == 0.25
    assert last(rows, "rewards/margins") is None
    assert recent(of([1.0] * 30 + [2.0] * 11 + [3.0] * 9).rows, "loss") == 2.0  # of the last 20
    assert recent([], "loss") is None


def test_time_left_is_the_steps_left_at_the_pace_of_the_last_ones():
    assert seconds_left(of([0.5] * 40)) == 120.0  # 60 steps of 2 seconds
    assert seconds_left(of([0.5] * 40, steps=None)) is None
    assert seconds_left(of([0.5] * 101)) == 0.0
    assert seconds_left(of([])) is None


def test_many_points_are_means_of_neighbours():
    assert thinned([1, 2, 3, 4, 5], [1.0, 3.0, 5.0, 7.0, 8.0], 3) == ([1.5, 3.5, 5.0], [2.0, 6.0, 8.0])
    assert thinned([1, 2], [1.0, 3.0], 3) == ([1, 2], [1.0, 3.0])
    assert thinned([], [], 3) == ([], [])


def plain(lines):
    return [line.plain for line in lines]


def test_a_chart_rises_from_the_corner_to_the_corner():
    """A straight line from the lowest value to the highest: in dots of braille, from lower left to upper right."""
    lines = plain(drawn(Curve("loss", "loss"), [of([0.0, 1.0, 2.0, 3.0])], 29, 6, colours=True))
    assert len(lines) == 6
    assert [len(line) for line in lines[1:]] == [29] * 5
    assert lines[0].strip() == "loss"
    assert lines[1].startswith("   3.00 ┤")
    assert lines[4].startswith("      0 ┤")
    assert lines[5].split() == ["1", "4"]
    first = [min(place for place, sign in enumerate(line[9:]) if sign != " ") for line in lines[1:5]]
    assert first == sorted(first, reverse=True)
    assert lines[4][9] != " "
    assert lines[1][28] != " "


def test_several_runs_are_told_apart():
    runs = [of([1.0, 1.0]), of([0.0, 0.0], label="ipo")]
    lettered = plain(drawn(Curve("loss", "loss"), runs, 29, 6, colours=False))
    assert {sign for line in lettered[1:-1] for sign in line[9:]} == {" ", "a", "b"}
    assert lettered[1][9:].strip() == "a" * 20
    assert lettered[4][9:].strip() == "b" * 20
    [top, *_] = drawn(Curve("loss", "loss"), runs, 29, 6, colours=True)[1:]
    assert {span.style for span in top.spans} == {"cyan"}


def test_a_metric_that_no_run_has_is_not_drawn():
    assert drawn(Curve("rewards/margins", "margin"), [of([1.0])], 29, 6, colours=True) == []
    assert len(drawn(Curve("loss", "loss"), [of([1.0])], 29, 6, colours=True)) == 6, "one step is drawn"


def test_the_table_has_a_line_for_each_run():
    runs = [
        of([0.5] * 40),
        of([0.25] * 100, label="ipo", state="finished", unreadable=2),
        of([], steps=None, label="x"),
    ]
    lines = frame(runs, 120, 40, colours=True).plain.split("\n")
    assert lines[0].split() == ["run", "step", "loss", "margin", "accuracy", "pairs/s", "time", "left"]
    assert lines[1].split() == ["dpo", "40/100", "0.500", "–", "–", "4.00", "0:02:00", "training"]
    assert lines[2].split()[:3] == ["ipo", "100/100", "0.250"]
    assert lines[2].endswith("finished, 2 lines of the log cannot be read")
    assert lines[3].split() == ["x", "0/–", "–", "–", "–", "–", "–", "training"]


@pytest.mark.parametrize(("width", "beside"), [(100, True), (60, False)])
def test_charts_stand_beside_each_other_where_there_is_room(width, beside):
    shown = frame([of([0.5, 0.4])], width, 60, colours=True).plain.split("\n")
    assert any("loss" in line and "pairs per second" in line for line in shown[1:]) == beside
    assert max(map(len, shown)) <= width


def test_a_frame_is_no_higher_than_the_terminal():
    assert len(frame([of([0.5, 0.4])], 60, 10, colours=True).plain.split("\n")) == 10
