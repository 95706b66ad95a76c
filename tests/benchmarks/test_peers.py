"""What the sweep asks of both sides exists on both sides, and means the same."""

from pathlib import Path

import machine
import peers
import pytest
import torch
from compared import tables

from scoreonce.pipeline import methods


@pytest.mark.parametrize("method", peers.SWEEP)
def test_swept_methods_take_what_they_are_given(method):
    given = {"label_smoothing": peers.SMOOTHING} if method in peers.SMOOTHED else {}
    columns = {f"{who}_{side}_logps": torch.zeros(2) for who in ("policy", "ref") for side in ("chosen", "rejected")}
    lengths = {"chosen_len": torch.ones(2), "rejected_len": torch.ones(2)}
    found = methods.apply(method, {**columns, **lengths}, beta=0.5, **given)
    assert torch.isfinite(found.loss)


def test_swept_losses_are_known_to_trl():
    source = pytest.importorskip("trl.trainer.dpo_config").DPOConfig.__doc__
    assert all(f"`'{name}'`" in source for name in peers.SWEEP.values())


def test_fastest_is_the_least_time_a_pair():
    assert peers.fastest({"1": 0.5, "2": 0.25, "4": 0.3}) == 2


def test_micro_batches_divide_a_step():
    case = peers.Case(peers.HH, Path(), {"batch": 4}, [])
    assert case.sizes((1, 2, 4, 8)) == [1, 2, 4]


def test_there_is_more_than_one_batch_of_any_size_to_time():
    """A search times all but the first; a step that ends a measurement needs one before it."""
    for size in (peers.FULL, peers.SMOKE):
        assert size.steps >= 2
        for pairs in size.batch.values():
            assert pairs * size.steps >= 2 * max(tried for tried in size.search if pairs % tried == 0)


@pytest.mark.parametrize(("wide", "name"), [(True, "peers"), (False, "peers_avx2")])
def test_the_plain_run_is_the_readme_s_by_the_kind_of_processor(monkeypatch, wide, name):
    monkeypatch.setattr(machine, "has_avx512", lambda: wide)
    assert peers.Where("cpu", "float32").results == name
    assert name in {path.stem for path in tables.MACHINES.values()}
    assert peers.Where("cpu", "bfloat16").results == "peers_cpu_bfloat16"
