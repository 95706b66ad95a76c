"""Many pairs are planned and joined piece by piece: the same completions, shards and tables as all at once."""

import numpy as np
import polars as pl
import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common import frames
from scoreonce.stages.common.files import sha256
from scoreonce.stages.data.mismatched import mismatched_completions
from scoreonce.stages.score import reference_table
from scoreonce.stages.score import stage as score
from scoreonce.stages.scoring import unscored
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.pair_view import first_occurrences
from scoreonce.stages.scoring.run import score_completions
from scoreonce.stages.scoring.unscored import missing_completions, pairs_left, unscored_completions
from scoreonce.stages.store.index import packed, packed_column
from scoreonce.stages.store.parts import Part


@pytest.fixture
def prepared(world):
    """40 pairs of 30 prompts, the first pair twice."""
    pairs = world.random_pairs(40)
    world.prepare([*pairs, pairs[0]], pairs[:2])
    return world


@pytest.fixture
def in_pieces(monkeypatch):
    """Buckets of about 12 completions, read 7 pairs at a time; row groups of 4 pairs."""

    def begin():
        monkeypatch.setattr(unscored, "BUCKET", 12)
        monkeypatch.setattr(reference_table, "ROWS_PER_GROUP", 4)
        honest = frames.parquet_batches
        monkeypatch.setattr(frames, "parquet_batches", lambda path, columns, _: honest(path, columns, 7))

    return begin


def planned(job, world=1):
    """Per process and shard, the completion ids and the prompt rows that they make."""
    work = unscored_completions(job)
    return [
        [(shard.ids, [len(row) for row in shard.rows]) for shard in work.shards(rank, world)] for rank in range(world)
    ]


def test_buckets_hold_what_one_pass_holds(prepared, in_pieces):
    job = ScoringJob.of(prepared.run())
    whole, (shards,) = unscored_completions(job), planned(job)
    assert len(whole.totals) == 1
    assert pairs_left(job, whole) == 43
    in_pieces()
    work, (others,) = unscored_completions(job), planned(job)
    assert len(work.totals) == 7  # of the 8 that 2 * (41 + 2) / 12 makes; one is empty
    assert (len(work), work.wanted) == (len(whole), whole.wanted) == (80, 80)
    for name in ("tokens", "completion_tokens", "longest_row", "longest_sequence"):
        assert getattr(work, name) == getattr(whole, name)
    assert sorted(name for ids, _ in others for name in ids) == sorted(name for ids, _ in shards for name in ids)
    # A prompt's completions are together: as many rows, of the same sizes.
    assert sorted(size for _, rows in others for size in rows) == sorted(size for _, rows in shards for size in rows)
    assert pairs_left(job, work) == 43


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_shards_of_all_buckets(prepared, in_pieces, processes):
    in_pieces()
    job = ScoringJob.of(prepared.run(score={"shard_completions": 4}))
    (alone,), shared = planned(job), planned(job, processes)
    work = unscored_completions(job)
    assert [shared[number % processes][number // processes] for number in range(len(alone))] == alone
    assert work.rounds(processes) == max(map(len, shared))
    for rank in range(processes):
        assert work.share(rank, processes) == sum(len(ids) for ids, _ in shared[rank])


def test_a_plan_does_not_change_while_others_write(prepared, in_pieces):
    """Another process scores everything between planning and the first shard."""
    in_pieces()
    job = ScoringJob.of(prepared.run())
    work, before = unscored_completions(job), planned(job)[0]
    score_completions(ScoringJob.of(prepared.run()))
    assert [shard.ids for shard in work.shards()] == [ids for ids, _ in before]
    assert len(unscored_completions(job)) == 0


def test_parts_and_buckets_together_hold_everything_once(prepared, in_pieces):
    in_pieces()
    ids = []
    for number in (1, 2, 3):
        job = ScoringJob.of(prepared.run(), part=Part(number, 3))
        ids += [name for own, _ in planned(job)[0] for name in own]
        assert missing_completions(job) == 80
    assert len(ids) == len(set(ids)) == 80


@pytest.mark.parametrize("embeddings", [False, True])
def test_the_tables_are_the_same_bytes(prepared, in_pieces, embeddings):
    """Scored and joined at once, then joined again in pieces with the same size of row groups."""
    settings = {"embeddings": embeddings}
    run = prepared.run(score=settings)
    score_completions(ScoringJob.of(run))
    job = ScoringJob.of(run)
    reference_table.ROWS_PER_GROUP, kept = 4, reference_table.ROWS_PER_GROUP
    try:
        counts = [reference_table.write_reference_table(job, split) for split in ("train", "test")]
    finally:
        reference_table.ROWS_PER_GROUP = kept
    before = [sha256(job.paths.reference(split)) for split in ("train", "test")]
    in_pieces()
    assert counts == [40, 2]
    assert [reference_table.write_reference_table(job, split) for split in ("train", "test")] == counts
    assert [sha256(job.paths.reference(split)) for split in ("train", "test")] == before
    groups = pl.read_parquet(job.paths.reference("train"))
    assert groups["pair_id"].to_list() == pl.read_parquet(job.paths.pairs("train"))["pair_id"].to_list()[:40]


def test_mismatched_completions_in_buckets_and_pieces(prepared, in_pieces):
    """Those of KTO are planned with their prompts: the same ids as in one bucket, and the same table."""
    run = prepared.run(score={"mismatched": True})
    job = ScoringJob.of(run)
    whole = {name for ids, _ in planned(job)[0] for name in ids}
    met = set(mismatched_completions(prepared.paths, "train")["kl_id"])
    assert met < whole
    score_completions(ScoringJob.of(run))
    assert reference_table.write_reference_table(job, "train") == 40
    before = pl.read_parquet(job.paths.reference("train"))
    assert before["ref_kl_logps"].null_count() == 0
    in_pieces()
    again = ScoringJob.of(prepared.run(score={"mismatched": True, "store": str(prepared.folder / "other")}))
    work, (others,) = unscored_completions(again), planned(again)
    assert len(work.totals) > 1
    assert {name for ids, _ in others for name in ids} == whole
    assert sum(len(ids) for ids, _ in others) == len(whole)
    assert reference_table.write_reference_table(job, "train") == 40
    assert pl.read_parquet(job.paths.reference("train")).equals(before)


def test_a_table_that_lacks_mismatched_scores_is_not_written(prepared):
    score.score(prepared.run())
    job = ScoringJob.of(prepared.run(score={"mismatched": True}))
    before = sha256(prepared.paths.reference("train"))
    with pytest.raises(InputError, match="lacks mismatched completions") as raised:
        reference_table.write_reference_table(job, "train")
    assert raised.value.found == "40 of 40 pairs of train without them"
    assert sha256(prepared.paths.reference("train")) == before


def test_a_table_that_lacks_scores_is_not_written(prepared, in_pieces):
    in_pieces()
    run = prepared.run()
    score.score(run)
    before = sha256(prepared.paths.reference("train"))
    pairs = prepared.random_pairs(44)
    prepared.prepare(pairs)
    with pytest.raises(InputError, match="lacks completions") as raised:
        reference_table.write_reference_table(ScoringJob.of(run), "train")
    assert raised.value.found == "4 of 44 pairs of train without scores"
    assert sha256(prepared.paths.reference("train")) == before


def test_an_index_that_leads_astray_is_made_again(prepared, caplog):
    """Row numbers of the index exchanged, on disk as a lost write would leave it: found by the ids in the files."""
    run = prepared.run()
    score.score(run)
    expected = sha256(prepared.paths.reference("train"))
    job = ScoringJob.of(run)
    index = job.store.scores.index()
    rows = np.array(index.rows)[::-1].copy()
    object.__setattr__(index, "rows", rows)
    reference_table.write_reference_table(job, "train")
    assert "is damaged; it is made again" in caplog.text
    assert sha256(prepared.paths.reference("train")) == expected


def test_first_occurrences_by_hand():
    """Of a, b, a, c, b, a the first three kinds are at 0, 1 and 3; ids that share half of their digits are others."""
    a, b, c = "0" * 32, "0" * 16 + "1" * 16, "1" * 16 + "0" * 16
    assert first_occurrences(packed([a, b, a, c, b, a])).tolist() == [True, True, False, True, False, False]
    assert first_occurrences(packed([])).tolist() == []


def test_a_column_of_ids_is_packed_as_a_list_is():
    names = [f"{number:032x}" for number in (5, 2**127, 0, 77)]
    column = pl.Series(names)
    assert packed_column(column).tolist() == packed(names).tolist()
    assert packed_column(column[1:3]).tolist() == packed(names[1:3]).tolist()
    assert packed_column(pl.concat([column, column[2:]])).tolist() == packed([*names, *names[2:]]).tolist()
    assert packed_column(column.clear()).shape == (0,)
    with pytest.raises(ValueError, match="32 hex digits"):
        packed_column(pl.Series(["ab"]))
