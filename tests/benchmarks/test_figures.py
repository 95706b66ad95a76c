"""From answers to figures, with numbers by hand."""

import pytest
from compared import figures


def test_compared(small):
    """Training gaps of TRL 2, 4, 8 s: the median step of 4 pairs in 4 s; ours 1, 1, 2 s: 4 pairs/s."""
    found = figures.compared(small.rounds, small.pairs, 4, small.shape)
    assert found["pairs/s"] == {
        "default score": 1.0,
        "trl score": 2.0,
        "ours score": 8.0,
        "default train": 0.5,
        "trl train": 1.0,
        "ours train": 4.0,
    }
    assert found["ratio"] == {
        "score to default": 8.0,
        "score to trl": 4.0,
        "train to default": 8.0,
        "train to trl": 4.0,
        "score to default, memory": 0.25,
        "score to trl, memory": 0.5,
        "train to default, memory": 0.125,
        "train to trl, memory": 0.25,
    }
    assert found["start to first step, s"] == {"default": 9.0, "trl": 5.0, "ours": 3.0}
    assert found["losses apart"] == pytest.approx(0.05)
    # 224 + 60 = 284 operations a pair in our layout; 2 * (8 * 9 + 26 * 3) + 8 * 10 + 60 = 440 in TRL's
    assert found["FLOP of a pair"] == {
        "default score": 440,
        "default train": 1320,
        "trl score": 440,
        "trl train": 1320,
        "ours score": 284,
        "ours train": 852,
    }
    assert found["FLOP/s"]["ours train"] == 4 * 852


def test_inside(small):
    """8 pairs need 8 * 224 operations in the body: in 0.5 s 3,584 a second, twice that work backward."""
    found = figures.inside(small.inside, small.pairs, small.shape)
    assert found["phases"]["forward, body"] == {"seconds": 0.5, "tokens/s": 64.0, "FLOP/s": 3584.0}
    assert found["phases"]["backward, body"]["FLOP/s"] == 3584.0
    assert found["phases"]["data"]["FLOP/s"] is None
    assert found["DPO step over SFT step"] == 1.02
