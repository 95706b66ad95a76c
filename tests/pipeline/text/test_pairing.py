"""Pairs of graded lists: hand-computed, RSO against its acceptance law."""

import gzip
import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest

from scoreonce.pipeline.text import pairing
from scoreonce.pipeline.text.pairing import Pairing, pairs_of

SCORES = [3.0, 7.0, 1.0, 7.0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"way": "best_worst"}, [(1, 2)]),
        ({"way": "all_pairs"}, [(1, 0), (0, 2), (3, 0), (1, 2), (3, 2)]),  # 1 and 3 are equal
        ({"way": "all_pairs", "min_gap": 4}, [(1, 0), (3, 0), (1, 2), (3, 2)]),  # 3 - 1 = 2 is too little
        ({"way": "best_of_n"}, [(1, 0), (1, 2)]),
        ({"way": "random", "pairs_per_prompt": 9, "min_gap": 6}, [(1, 2), (3, 2)]),
    ],
)
def test_pairs_of_a_list(settings, expected):
    found = pairs_of(SCORES, "p", Pairing(**settings))
    assert (sorted(found) if settings["way"] == "random" else found) == (
        sorted(expected) if settings["way"] == "random" else expected
    )


@pytest.mark.parametrize("way", ["best_worst", "all_pairs", "random", "rso", "best_of_n"])
@pytest.mark.parametrize("scores", [[2.0, 2.0, 2.0], [5.0]])
def test_equal_scores_and_single_completions_make_no_pair(way, scores):
    assert pairs_of(scores, "p", Pairing(way)) == []


@pytest.mark.parametrize("ranking", ["first_round", "tournament"])
@pytest.mark.parametrize("way", ["random", "rso"])
def test_what_is_random_depends_on_seed_and_prompt_alone(way, ranking):
    scores = list(range(12))
    settings = Pairing(way, pairs_per_prompt=4, rso_samples=6, rso_beta=5, rso_ranking=ranking)
    first = {prompt: pairs_of(scores, prompt, settings) for prompt in map(str, range(30))}
    assert {prompt: pairs_of(scores, prompt, settings) for prompt in reversed(first)} == first
    assert len({tuple(pairs) for pairs in first.values()}) > 20
    assert {prompt: pairs_of(scores, prompt, Pairing(**{**vars(settings), "seed": 1})) for prompt in first} != first
    assert all(scores[chosen] > scores[rejected] for pairs in first.values() for chosen, rejected in pairs)


def test_random_pairs_are_equally_likely():
    """All 6 pairs of 4 distinct scores, 2 of them per prompt: each in a third of 3,000 prompts (sd 0.0086)."""
    settings = Pairing("random", pairs_per_prompt=2)
    drawn = Counter(pair for prompt in range(3000) for pair in pairs_of([1, 2, 3, 4], str(prompt), settings))
    assert len(drawn) == 6
    assert all(count / 3000 == pytest.approx(1 / 3, abs=0.04) for count in drawn.values())


def acceptance_law(scores, count, beta):
    """Probability of each ordered sample, by following every outcome of every pass of RSO's Algorithm 1."""
    law = Counter()

    def one_pass(left, accepted, weight):
        if weight < 1e-7 or len(accepted) == count:
            law[accepted] += weight
            return
        highest = max(scores[i] for i in left)
        chances = [math.exp((scores[i] - highest) / beta) for i in left]
        for outcome in itertools.product([True, False], repeat=len(left)):
            weight_of = math.prod(p if taken else 1 - p for p, taken in zip(chances, outcome, strict=True))
            if weight_of:
                taken = tuple(i for i, yes in zip(left, outcome, strict=True) if yes)[: count - len(accepted)]
                one_pass([i for i in left if i not in taken], accepted + taken, weight * weight_of)

    one_pass(list(range(len(scores))), (), 1.0)
    return law


def test_rejection_sampling_follows_the_acceptance_law():
    """20,000 samples of 2 of 3 against the enumerated law; three standard errors of a share are at most 0.011."""
    scores, beta, random = [0.0, 0.6, 1.0], 0.5, np.random.default_rng(0)
    law = acceptance_law(scores, 2, beta)
    drawn = Counter(tuple(pairing.rejection_sample(scores, 2, beta, random)) for _ in range(20_000))
    assert sum(law.values()) == pytest.approx(1, abs=1e-4)
    assert law[0, 1] == pytest.approx(math.exp(-2) * math.exp(-0.8))  # both in the first pass
    for sample in itertools.permutations(range(3), 2):
        assert drawn[sample] / 20_000 == pytest.approx(law[sample], abs=0.012)


def test_rejection_sampling_at_both_ends_of_beta():
    scores, random = [0.3, 0.9, 0.1, 0.5], np.random.default_rng(0)
    assert pairing.rejection_sample(scores, 3, 1e-9, random) == [1, 3, 0]
    assert pairing.rejection_sample(scores, 3, 1e9, random) == [0, 1, 2]
    assert sorted(pairing.rejection_sample(scores, 9, 0.5, random)) == [0, 1, 2, 3]


def test_rankings_of_a_sample():
    """Scores 5 3 | 2 2 | 9 1 | 4: four matches with one tie; then 5 against 2, 9 against 4; then 9 against 5."""
    scores, sample = [5, 3, 2, 2, 9, 1, 4], range(7)
    first_round = [(0, 1), (4, 5)]
    assert pairing.first_round_rank(scores, sample) == first_round
    assert pairing.tournament_rank(scores, sample) == [*first_round, (0, 2), (4, 6), (4, 0)]


def test_preferences_of_three():
    """Scores 0, 1, 1 and scale log 3: sigmoid(log 3) = 3/4, so (1/2 + 2 * 1/4) / 3 and (3/4 + 2 * 1/2) / 3."""
    assert pairing.preferences([0, 1, 1], math.log(3)) == pytest.approx([1 / 3, 7 / 12, 7 / 12], rel=1e-12)
    assert pairing.preferences([1e300, -1e300], 1e5) == [0.75, 0.25]


def test_strict_pairs_of_the_summaries(shared):
    with gzip.open(shared / "data/prefs/tldr_graded_lists.jsonl.gz") as lines:
        rows = [json.loads(line) for line in lines]
    pairs = [pairs_of(row["scores"], row["prompt"], Pairing("all_pairs")) for row in rows]
    assert sum(map(len, pairs)) == 10_097
