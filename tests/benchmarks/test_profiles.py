"""Pairs of the three length profiles: as long as they say, the same every time, the same ids on the way back."""

import json

import pytest
from compared import world
from compared.profiles import MULTI_TURN, PROFILES, SPECIAL, VOCABULARY
from transformers import AutoTokenizer


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_generated_pairs_fit_and_repeat(profile):
    pairs = profile.pairs(50, None)
    longest = max(pair.lengths.prompt + length for pair in pairs for length in pair.lengths.completions)
    assert longest <= profile.max_length
    assert min(min(len(pair.prompt), len(pair.chosen), len(pair.rejected)) for pair in pairs) >= 1
    assert pairs == profile.pairs(50, None)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_real_pairs_fit(profile, shared):
    pairs = profile.pairs(20, shared)
    assert len(pairs) == 20
    assert max(pair.lengths.prompt + max(pair.lengths.completions) for pair in pairs) <= profile.max_length
    assert all(0 <= token < VOCABULARY for pair in pairs for token in pair.prompt + pair.chosen + pair.rejected)


def test_multi_turn_lengths_are_exact():
    (pair,) = MULTI_TURN.pairs(1, None)
    assert (pair.lengths.prompt, *pair.lengths.completions) == (1_024, 256, 256)


def test_text_gives_the_ids_back(tmp_path):
    """Through a tokenizer as both sides use it; control tokens of real tokenizers become an ordinary word."""
    world.write_tokenizer(tmp_path, VOCABULARY)
    pairs = PROFILES[0].pairs(3, None)
    pairs[0].prompt[0] = 2
    world.write_pairs(tmp_path / "pairs.jsonl", pairs)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for pair, line in zip(pairs, (tmp_path / "pairs.jsonl").read_text().splitlines(), strict=True):
        row = json.loads(line)
        whole = tokenizer(row["prompt"] + row["chosen"] + tokenizer.eos_token)["input_ids"]
        assert whole == [max(token, SPECIAL) for token in pair.prompt + pair.chosen] + [tokenizer.eos_token_id]


def test_digest_tells_pairs_apart():
    assert world.digest([[[1], [2], [3]]]) != world.digest([[[1, 2], [], [3]]])
