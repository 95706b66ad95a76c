"""From answers to figures, with numbers by hand."""

import pytest
from compared import figures


def test_compared(small):
    """Training gaps of TRL 2, 4, 8 s: the median step of 4 pairs in 4 s; ours 1, 1, 2 s: 4 pairs/s."""
    found = figures.compared(small.rounds, small.pairs, 4, small.shape)
    assert found["pairs/s"] == {"trl score": 2.0, "ours score": 8.0, "trl train": 1.0, "ours train": 4.0}
    assert found["ratio"] == {"score": 4.0, "train": 4.0, "score, memory": 0.5, "train, memory": 0.25}
    assert found["start to first step, s"] == {"trl": 5.0, "ours": 3.0}
    assert found["losses apart"] == pytest.approx(0.05)
    # 412 operations a pair in our layout; 2 * 34 * 9 + 8 * 25 + 60 = 872 in TRL's
    assert found["FLOP of a pair"] == {"trl score": 872, "trl train": 2616, "ours score": 412, "ours train": 1236}
    assert found["FLOP/s"]["ours train"] == 4 * 1236


def test_inside(small):
    """8 pairs need 8 * 352 operations in the body: in 0.5 s 5,632 a second, twice that work backward."""
    found = figures.inside(small.inside, small.pairs, small.shape)
    assert found["phases"]["forward, body"] == {"seconds": 0.5, "tokens/s": 64.0, "FLOP/s": 5632.0}
    assert found["phases"]["backward, body"]["FLOP/s"] == 5632.0
    assert found["phases"]["data"]["FLOP/s"] is None
    assert found["DPO step over SFT step"] == 1.02
