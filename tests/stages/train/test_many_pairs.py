"""Training pairs are read piece by piece: the columns, ids and lengths that a join of the whole tables gives."""

import hashlib

import polars as pl
import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common import frames
from scoreonce.stages.data.token_file import largest_token
from scoreonce.stages.models import lineage
from scoreonce.stages.score import stage as score
from scoreonce.stages.train.data import load_training_data
from scoreonce.stages.train.pair_filter import drawn

READS = frozenset({"policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps"})


@pytest.fixture(params=[False, True], ids=["distinct", "some twice"])
def scored(world, request, monkeypatch):
    """30 pairs, read 7 at a time; of the second world the first pair comes again in the middle and at the end."""
    pairs = world.random_pairs(30)
    if request.param:
        pairs = [*pairs[:20], pairs[0], *pairs[20:], pairs[0], pairs[25]]
    world.prepare(pairs)
    score.score(world.run())
    world.pairs = pairs
    honest = frames.parquet_batches
    monkeypatch.setattr(frames, "parquet_batches", lambda path, columns, _: honest(path, columns, 7))
    return world


def test_columns_and_ids_are_those_of_a_join(scored):
    data = load_training_data(scored.paths, READS)
    pairs = pl.read_parquet(scored.paths.pairs("train"))
    reference = pl.read_parquet(scored.paths.reference("train"))
    joined = pairs.select("pair_id").join(reference, on="pair_id", how="left", maintain_order="left")
    assert len(data) == len(scored.pairs)
    for name in ("ref_chosen_logps", "ref_rejected_logps"):
        assert data.columns[name].tolist() == joined[name].to_list()
    ids = pairs["pair_id"].to_list()
    assert list(data.pair_ids) == [data.pair_ids[n] for n in range(len(data))] == ids
    assert data.row_tokens.tolist() == [sum(map(len, pair)) for pair in scored.pairs]
    assert data.longest_sequence == max(len(p) + max(len(c), len(r)) for p, c, r in scored.pairs)
    assert data.largest_token == max(token for pair in scored.pairs for side in pair for token in side)


def test_selected_pairs_keep_their_own_columns(scored):
    data = load_training_data(scored.paths, READS, "prompt_len > 8")
    kept = [n for n, (prompt, _, _) in enumerate(scored.pairs) if len(prompt) > 8]
    everything = load_training_data(scored.paths, READS)
    assert 0 < len(kept) < len(scored.pairs)
    assert data.places.tolist() == kept
    assert list(data.pair_ids) == [everything.pair_ids[n] for n in kept] == [data.pair_ids[n] for n in range(len(kept))]
    assert data.columns["ref_chosen_logps"].tolist() == everything.columns["ref_chosen_logps"][kept].tolist()


def test_pairs_that_were_never_scored_are_counted(scored):
    scored.prepare([*scored.pairs, *scored.random_pairs(5, seed=9)])
    with pytest.raises(InputError, match="no reference scores") as raised:
        load_training_data(scored.paths, READS)
    assert raised.value.found.startswith("5 of ")


def test_the_digest_of_ids_is_that_of_their_lines(monkeypatch):
    """The same as before they were digested in pieces, so that a run of before is the same run."""
    monkeypatch.setattr(lineage, "AT_ONCE", 3)
    for count in (0, 1, 3, 4, 7, 8):
        ids = [f"{number:032x}" for number in range(count)]
        assert lineage._digest(ids) == hashlib.sha256("\n".join(ids).encode()).hexdigest()


def test_the_largest_token_of_a_file(world):
    """Of each column, over record batches of 50 rows; none where nothing is in them."""
    world.prepare([([1, 2], [3], None)] * 60 + [([1, 9], [4], [90])], [])
    path = world.paths.tokens("train")
    assert largest_token(path) == 90
    assert largest_token(path, ["prompt_ids", "chosen_ids"]) == 9
    assert largest_token(world.paths.tokens("test")) == -1


def test_a_smaller_share_is_a_part_of_a_larger_one(scored):
    """Also where another condition has chosen before, and where other pairs stand beside them."""
    pairs = len(scored.pairs)
    of = {share: load_training_data(scored.paths, READS, share=share, seed=3) for share in (0.1, 0.3, 0.6, 1.0)}
    taken = {share: set(data.pair_ids) for share, data in of.items()}
    assert [len(data) for data in of.values()] == [round(share * pairs) for share in of]
    assert taken[0.1] < taken[0.3] < taken[0.6] < taken[1.0]
    assert of[0.6].places.tolist() == sorted(of[0.6].places.tolist())
    other = load_training_data(scored.paths, READS, share=0.3, seed=4)
    assert set(other.pair_ids) != taken[0.3]
    everything = load_training_data(scored.paths, READS)
    assert of[0.3].columns["ref_chosen_logps"].tolist() == [
        everything.columns["ref_chosen_logps"][place] for place in of[0.3].places
    ]
    some = load_training_data(scored.paths, READS, "prompt_len > 8", share=0.5, seed=3)
    long = [n for n, (prompt, _, _) in enumerate(scored.pairs) if len(prompt) > 8]
    assert len(some) == round(0.5 * len(long))
    assert set(some.places.tolist()) < set(long)


def test_which_pairs_a_share_takes_is_decided_by_their_ids_alone():
    ids = [f"{number:032x}" for number in range(1000)]
    first = {ids[place] for place in drawn(ids, 1000, 0.2, 0)}
    turned = ids[::-1]
    assert {turned[place] for place in drawn(turned, 1000, 0.2, 0)} == first
    # Of the first half of them, the smallest 100 numbers: those of the 200 that are in it, and some more.
    half = {ids[place] for place in drawn(ids[:500], 500, 0.2, 0)}
    assert len(half) == 100
    assert first & set(ids[:500]) <= half or half <= first & set(ids[:500])
    assert drawn(ids[:3], 3, 0.01, 0).size == 1
