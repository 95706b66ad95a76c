"""Pairs that several engines score."""

import pytest
from scored_by_ray import run_of, tables

from scoreonce.stages.score.stage import score


@pytest.fixture
def prepared(world):
    """240 completions of 91 prompts, in shards of at least eight: 15 parts."""
    pairs = world.random_pairs(120)
    world.prepare(pairs[:100], pairs[100:])
    return world


@pytest.fixture
def expected(prepared):
    """What one process gives, in a store of its own."""
    score(run_of(prepared, store=str(prepared.folder / "whole")))
    found = tables(prepared)
    prepared.paths.reference_manifest.unlink()
    return found
