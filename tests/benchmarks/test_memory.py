"""How memory over time is told."""

import mmap
import sys

import memory
import pytest


def test_points_are_means_of_a_twentieth_of_the_time():
    """100 readings 0 to 99: the five before the 10th, the 25th, the 50th, the 75th and the last."""
    assert memory.at_points(range(100)) == [7.0, 22.0, 47.0, 72.0, 97.0]
    assert memory.at_points([5.0]) == [5.0] * 5


def test_table():
    lines = memory.table({"it": ([100.0, 1_200.4, 1_300.0, 1_300.0, 1_301.5], 12.3)})
    assert lines[2] == "| it | 12 | 100 | 1,200 | 1,300 | 1,300 | 1,302 | +1.5 |"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory():
    """50 MiB more are seen. A new mapping: an allocator may give memory that is resident already."""
    with mmap.mmap(-1, 50 * memory.MIB) as held:
        before = memory.resident()
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        assert 40 < memory.resident() - before < 60
