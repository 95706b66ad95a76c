"""The training-dynamics map: where each pair's dot stands, and of which kind it is."""

import pytest

from scoreonce.pipeline.pages.audit.dynamics_map import dynamics_maps


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


def test_dots_by_hand():
    """Means from -1 to 3 and spreads up to 2: a quarter of the width lies left of zero."""
    (drawn,) = dynamics_maps([entry([(-1, 0.5), (3, 1), (1, 2)], ambiguous=1)])
    assert drawn.zero == 25
    assert {region.name: region.path for region in drawn.regions} == {
        "learned": "M100.0 50.0h0",
        "ambiguous": "M50.0 0.0h0",
        "hard": "M0.0 75.0h0",
    }
    assert [region.words for region in drawn.regions] == [
        "learned: 1 (33.3%)",
        "ambiguous: 1 (33.3%)",
        "hard: 1 (33.3%)",
    ]
    assert drawn.x_ticks == ((0, "−1"), (25, "0"), (50, "1"), (75, "2"), (100, "3"))
    assert drawn.y_ticks[-1] == (100, "2")


def test_a_few_far_pairs_do_not_flatten_the_rest():
    """Of 200 pairs the two outermost on each side stand on the edge."""
    points = [(float(i), float(i)) for i in range(198)] + [(9000.0, 1.0), (1.0, 9000.0)]
    (drawn,) = dynamics_maps([entry(points, ambiguous=0)])
    assert drawn.x_ticks[-1][1] == "150"
    assert "M100.0 99.5h0" in drawn.regions[0].path
    assert "M0.5 0.0h0" in drawn.regions[0].path


@pytest.mark.parametrize("points", [[(0.0, 0.0)], [(2.0, 0.0), (2.0, 0.0)], [(-3.0, 1.0)]])
def test_pairs_that_are_all_alike(points):
    (drawn,) = dynamics_maps([entry(points, ambiguous=0)])
    assert "nan" not in str(drawn)
    assert sum(region.path.count("h0") for region in drawn.regions) == len(points)


def test_a_map_without_pairs_is_left_out():
    assert dynamics_maps([{**entry([(1.0, 1.0)], 0), "points": []}]) == []
