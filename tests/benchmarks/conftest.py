"""Benchmarks are scripts that import each other by bare names, as from their own folder."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from compared import figures
from compared.profiles import TokenPair
from flops import Shape


def answers(trl_step, our_step):
    """One round: TRL's timed part is 6 of 8 pairs in 3 s, ours 8 in 1 s; steps of 4 pairs."""
    return {
        "default score": {"pairs": 6, "seconds": 6.0, "peak, bytes": 400},
        "default train": {"step ends, s": [9.0, 9.0 + 2 * trl_step], "peak, bytes": 800, "losses": [0.5, 0.4]},
        "trl score": {"pairs": 6, "seconds": 3.0, "peak, bytes": 200},
        "ours score": {"pairs": 8, "seconds": 1.0, "peak, bytes": 100},
        "trl train": {"step ends, s": [5.0, 5.0 + trl_step], "peak, bytes": 400, "losses": [0.5, 0.4], "passes": 0.0},
        "ours train": {"step ends, s": [3.0, 3.0 + our_step], "peak, bytes": 100, "losses": [0.5, 0.45]},
    }


@pytest.fixture(scope="session")
def small():
    """Answers of three rounds over 8 pairs with a prompt of 3, and completions of 2 and 1 with their EOS."""
    seconds = {"data": 0.1, "forward, body": 0.5, "backward, body": 1.0, "forward, head": 0.1, "backward, head": 0.1}
    return SimpleNamespace(
        shape=Shape(width=2, layers=1, heads=1, feed_forward=3, vocabulary=5),
        pairs=[TokenPair([4, 4, 4], [4], [])] * 8,
        rounds=[answers(2.0, 1.0), answers(4.0, 1.0), answers(8.0, 2.0)],
        inside={"layout": "shared", "tokens": 32, "phases, s": seconds, "DPO step, s": 1.02, "SFT step, s": 1.0},
    )


@pytest.fixture(scope="session")
def measured(small):
    """What peers.json holds, of one profile."""
    entry = {
        "title": "short pairs",
        **figures.compared(small.rounds, small.pairs, 4, small.shape),
        "TRL's micro-batches": {"score": 2, "train": 4},
        "TRL's seconds a pair by micro-batch": {"score": {"2": 0.25, "4": 0.5}, "train": {"2": 1.0, "4": 0.5}},
        "inside": figures.inside(small.inside, small.pairs, small.shape),
    }
    return {
        "measured": {
            "date": "2026-01-02",
            "machine": "an abacus",
            "cores": 2,
            "threads": 2,
            "load over 15 min": 0.1,
            "versions": {"torch": "2.13.0", "trl": None},
        },
        "device": "cpu",
        "dtype": "float32",
        "pairs are real": True,
        "model": {**vars(small.shape), "parameters": small.shape.parameters},
        "GEMM, FLOP/s": {"float32": 10_000.0, "bfloat16": 20_000.0},
        "profiles": {"short": entry},
        "sweep": {
            "runs": 15,
            "pairs": 16,
            "steps": 1,
            "ratio": {"default": 7.5, "trl": 5.0},
            "default": {"seconds": 150.0, "reference passes": 15.0},
            "trl": {"seconds": 100.0, "reference passes": 15.0},
            "ours": {"seconds": 20.0, "reference passes": 1.0},
        },
    }
