"""The training-dynamics map: each pair's dot, its region, and the ends of the axes."""

import pytest

from scoreonce.pipeline.pages.audit.dynamics_map import dynamics_charts


def entry(points, ambiguous):
    pairs = [{"pair_id": str(i), "mean": mean, "spread": spread} for i, (mean, spread) in enumerate(points)]
    learned = sum(mean > 0 for mean, _ in points) - ambiguous
    return {
        "label": "dpo",
        "x": "mean",
        "y": "spread",
        "pairs": len(points),
        "points": pairs,
        "regions": {"ambiguous": ambiguous, "learned": learned, "hard": len(points) - ambiguous - learned},
    }


def domains(chart):
    return tuple(chart.spec["layer"][1]["encoding"][axis]["scale"]["domain"] for axis in "xy")


def test_dots_by_hand():
    """Of three pairs the one with the largest spread is ambiguous; of the others one has a mean above zero."""
    (chart,) = dynamics_charts([entry([(-1, 0.5), (3, 1), (1, 2)], ambiguous=1)])
    assert chart.spec["datasets"]["rows"] == [
        {"mean": -1, "spread": 0.5, "region": "hard"},
        {"mean": 3, "spread": 1, "region": "learned"},
        {"mean": 1, "spread": 2, "region": "ambiguous"},
    ]
    assert domains(chart) == ([-1, 3], [0, 2])
    assert [words for words, _ in chart.legend] == ["learned: 1 (33.3%)", "ambiguous: 1 (33.3%)", "hard: 1 (33.3%)"]
    assert chart.spec["layer"][1]["encoding"]["color"]["scale"]["range"] == [paint for _, paint in chart.legend]
    assert (chart.title, chart.detail) == ("dpo", "3 pairs")


def test_a_few_far_pairs_do_not_flatten_the_rest():
    """Of 200 pairs the two outermost on each side do not count for the axis; they are drawn on its edge."""
    points = [(float(i), float(i)) for i in range(198)] + [(9000.0, 1.0), (1.0, 9000.0)]
    (chart,) = dynamics_charts([entry(points, ambiguous=0)])
    assert domains(chart) == ([0, 196], [0, 196])
    assert all(chart.spec["layer"][1]["encoding"][axis]["scale"]["clamp"] for axis in "xy")
    assert len(chart.spec["datasets"]["rows"]) == 200


@pytest.mark.parametrize("points", [[(0.0, 0.0)], [(2.0, 0.0), (2.0, 0.0)], [(-3.0, 1.0)]])
def test_pairs_that_are_all_alike(points):
    (chart,) = dynamics_charts([entry(points, ambiguous=0)])
    assert all(low < high for low, high in domains(chart))
    assert len(chart.spec["datasets"]["rows"]) == len(points)


def test_a_map_without_pairs_is_left_out():
    assert dynamics_charts([{**entry([(1.0, 1.0)], 0), "points": []}]) == []
