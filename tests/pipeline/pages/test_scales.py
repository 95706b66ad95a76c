"""Which runs share an axis, and when an axis is logarithmic."""

from scoreonce.pipeline.pages.scales import flattened, groups, spread


def test_a_run_that_would_flatten_the_others_stands_alone():
    """Losses of 0.5 to 0.7 and of 0.6 to 0.75, and one of 1 to 25: the first two would have 1/122 of the axis."""
    assert groups({0: (0.5, 0.7), 1: (1.0, 25.0), 2: (0.6, 0.75)}) == [[0, 2], [1]]


def test_runs_of_similar_size_share_an_axis():
    """The shortest has 0.5 of an axis of 5: a tenth."""
    assert groups({0: (0.0, 0.5), 1: (0.0, 5.0), 2: (-0.1, 3.0)}) == [[0, 1, 2]]


def test_a_constant_is_flattened_by_nothing_and_may_flatten():
    assert groups({0: (1e-6, 1e-6), 1: (0.0, 1e-6)}) == [[0, 1]]
    assert groups({0: (0.0, 1.0), 1: (1000.0, 1000.0)}) == [[0], [1]]


def test_two_large_runs_share_the_second_axis():
    assert groups({0: (0.0, 900.0), 1: (0.0, 1.0), 2: (0.0, 1000.0), 3: (0.0, 2.0), 4: (0.5, 2.0)}) == [
        [1, 3, 4],
        [0, 2],
    ]


def test_points_are_drawn_on_a_logarithmic_axis_where_one_is_far_from_the_others():
    """0 to 4 and 100: without the last the range is 4 of 100, below an eighth; 0 to 4 and 30 leave 4 of 30, above."""
    assert flattened([0.0, 2.0, 4.0, 100.0])
    assert flattened([-100.0, 0.0, 2.0, 4.0])
    assert not flattened([0.0, 2.0, 4.0, 30.0])
    assert not flattened([0.0, 100.0])
    assert spread([0.0, 2.0, 4.0, 100.0]).to_dict()["type"] == "symlog"
    assert "type" not in spread([0.0, 2.0, 4.0, 30.0]).to_dict()
