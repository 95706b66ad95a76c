"""Flaws planted into real pairs (benchmarks/planted_real.py), from raw rows to the findings of an audit."""

import pytest

from scoreonce.stages.common.files import read_json

SIMILARITY = 0.8


@pytest.fixture(scope="module")
def hh(shared, benchmark_module, tmp_path_factory):
    """HH-RLHF audited as it is, and with four of every flaw."""
    real, folder = benchmark_module("planted_real"), tmp_path_factory.mktemp("hh")
    rows, evaluation = real.load(shared, "hh")
    tokenizer = shared / "data/models/hh-llama-2.8M"
    alone = real.audited(folder / "before", real.World.of(rows), tokenizer, evaluation)
    world = real.planted(rows, alone, evaluation, each=4)
    layout = real.audited(folder / "after", world, tokenizer, evaluation)
    return real, world, layout, real.found(alone), real.found(layout)


@pytest.mark.slow
def test_what_is_found_besides_is_what_was_planted(hh):
    """Row by row, for every finding and every reason for quarantine: nothing missed, nothing false, nothing lost."""
    _, world, _, before, after = hh
    assert {name: places - before.get(name, set()) for name, places in after.items() if places} == {
        name: world.planted.get(name, set()) for name, places in after.items() if places
    }
    assert all(places <= after[name] for name, places in before.items())
    assert world.planted.keys() <= after.keys()
    assert len(world.planted) >= 36
    assert min(map(len, world.planted.values())) >= 4


@pytest.mark.slow
def test_real_pairs_have_findings_of_their_own(hh):
    """AlpacaEval took its helpful prompts from HH: the overlap is found without anything planted. HH is in English."""
    _, _, layout, before, _ = hh
    assert len(before["contaminated_prompt"]) > 100
    assert len(before["near_duplicate_prompt"]) > 20
    mix = {row["language"]: row["prompt"] for row in read_json(layout.audit_summary)["languages"]}
    assert mix["English"] > 0.75 * sum(mix.values())
    assert sum(mix.values()) - mix["English"] - mix["unknown"] < 0.01 * sum(mix.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("finding", "sides"),
    [("near_duplicate_prompt", ("prompt",)), ("near_duplicate_completion", ("chosen", "rejected"))],
)
def test_near_duplicates_are_those_of_an_exhaustive_search(hh, finding, sides):
    real, _, layout, _, after = hh
    wanted, found = real.alike(layout, sides, SIMILARITY), after[finding]
    assert len(wanted) > 30
    assert len(wanted & found) >= 0.95 * len(wanted)
    assert len(wanted & found) >= 0.95 * len(found)


def test_the_exhaustive_search_by_hand(benchmark_module):
    """abcde has abc, bcd, cde; abcdx shares two of four. Upper case and punctuation are other texts, the same words."""
    real = benchmark_module("planted_real")
    texts = ["a b c d e", "a b c d x", "A, b c d e!", "q r s", "q r s t"]
    assert real.jaccard(texts[0], texts[1]) == 0.5
    assert real.similar_pairs(texts, 0.5) == [(0, 1), (1, 2), (3, 4)]
    assert real.similar_pairs(texts, 0.51) == []
