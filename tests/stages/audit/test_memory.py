"""What an audit holds of all pairs at once, in bytes a pair: numbers and flags, never their ids, texts or measures."""

import gc
import os
import weakref

import polars as pl
import pyarrow.parquet as pq
import pytest

from scoreonce.stages.audit import measures as audit_measures
from scoreonce.stages.audit import pieces
from scoreonce.stages.audit import stage as audit

PAIRS = 1_200


@pytest.fixture
def collected(monkeypatch):
    """Of every frame that an audit collects, its columns, rows and bytes."""
    frames: list[tuple[list[str], int, int]] = []
    honest = pl.LazyFrame.collect

    def collect(self, *args, **kwargs):
        found = honest(self, *args, **kwargs)
        frames.append((found.columns, found.height, found.estimated_size()))
        return found

    monkeypatch.setattr(pl.LazyFrame, "collect", collect)
    return frames


@pytest.fixture
def alive(monkeypatch):
    """How many pieces with their measures were in memory at the same time, at most."""
    counts, living = [], weakref.WeakValueDictionary()
    honest = audit_measures._read

    def read(piece, inputs):
        found, broken = honest(piece, inputs)
        living[id(found)] = found
        counts.append(len(living))
        return found, broken

    monkeypatch.setattr(audit_measures, "_read", read)
    return counts


def test_no_wide_frame_of_all_pairs_is_collected(world, collected):
    """48 bytes a pair are the ids of the pairs, which stand in the file as ids of other pairs; else 8 a column."""
    world.prepare(world.random_pairs(PAIRS))
    audit.audit(world.run())
    of_all = {", ".join(columns): size / rows for columns, rows, size in collected if rows >= PAIRS}
    assert len(of_all) > 10
    assert {columns: size for columns, size in of_all.items() if size > 50} == {}


def test_what_is_measured_is_written_and_not_kept(world, alive, monkeypatch):
    """As many pieces as are being made or wait to be written: of 40 row groups of 30 pairs no more than that."""
    monkeypatch.setattr(pieces, "ROWS_AT_ONCE", 30)
    honest = pq.write_table
    monkeypatch.setattr(pq, "write_table", lambda *given, **more: honest(*given, **{**more, "row_group_size": 30}))
    world.prepare(world.random_pairs(PAIRS))
    gc.collect()
    audit.audit(world.run())
    assert len(alive) == 40
    assert max(alive) <= 3 * (os.cpu_count() or 1) + 2
    written, prepared = (pl.read_parquet(path) for path in (world.paths.audit_pairs, world.paths.pairs("train")))
    assert written["pair_id"].to_list() == prepared["pair_id"].to_list()
    assert written["prompt_tokens"].to_list() == prepared["prompt_len"].to_list()
