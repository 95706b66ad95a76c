"""The demo's synthetic task: rewards worked out by hand, determinism, and disjoint prompts."""

import hashlib
import json
import math
import random
import statistics

import pytest

from scoreonce.pipeline.demo.reward import prefers_first, reward
from scoreonce.pipeline.demo.task import Prompt, card, prompts

ADA = Prompt("Ada", "Lisbon", "May")


def test_prompt_text():
    assert ADA.text == "A postcard to Ada from Lisbon in May:\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # lovely, warm (once, though said twice): +2. noisy: -1. Ada and Lisbon: +2. No sentence twice, 20 words.
        (
            "Lisbon in May\nDear Ada,\nThe sea was lovely and warm. We found it warm. The inn was noisy.\nYours, Tom",
            2 - 1 + 2,
        ),
        # dull three times: -3; the sentence repeated twice: -2; neither Porto nor Hugo is the prompt's.
        ("Porto in May\nDear Hugo,\nSuch a dull view! Such a dull view! Such a dull view!", -3 - 2),
        # 5 distinct sentences of 9 words, 45 words: 5 words over 40 cost 1.25; golden: +1.
        (" ".join(f"A b c d e f g h {word}." for word in ("golden", "old", "tall", "grey", "round")), 1 - 5 / 4),
        # Case and punctuation do not matter; "warmth" is not "warm", nor "Adam" Ada.
        ("LOVELY, warmth, Adam", 1),
        ("", 0),
    ],
)
def test_reward_by_hand(text, expected):
    assert reward(ADA, text) == expected


def test_the_same_seed_makes_the_same_task():
    def made(seed):
        drawn = prompts(seed, texts=20, pairs=10, judged=10)
        return drawn, [card(prompt, random.Random(seed)) for prompt in drawn.texts]

    assert made(3) == made(3)
    assert made(3) != made(4)


def test_prompts_are_disjoint_and_distinct():
    drawn = prompts(0, texts=4000, pairs=2000, judged=500)
    everything = [prompt.text for part in (drawn.texts, drawn.pairs, drawn.judged) for prompt in part]
    assert len(everything) == len(set(everything)) == 6500


def test_more_prompts_than_the_task_has():
    with pytest.raises(ValueError, match="6912 prompts, not 7000"):
        prompts(0, texts=7000, pairs=0, judged=0)


def test_cards_greet_their_reader_and_differ_in_reward():
    drawn = prompts(0, texts=500, pairs=0, judged=0).texts
    draw = random.Random(0)
    cards = [card(prompt, draw) for prompt in drawn]
    assert all(f"\nDear {prompt.name},\n" in text for prompt, text in zip(drawn, cards, strict=True))
    rewards = [reward(prompt, text) for prompt, text in zip(drawn, cards, strict=True)]
    assert statistics.stdev(rewards) > 1, "a reward that hardly varies cannot be learned from"
    assert len(set(cards)) == 500


def test_prefers_first_follows_bradley_and_terry():
    draw = random.Random(0)
    wins = sum(prefers_first(1.0, 0.0, draw) for _ in range(20_000))
    # sigmoid(1) = 0.7311; its standard error at 20,000 draws is 0.0031
    assert abs(wins / 20_000 - 1 / (1 + math.exp(-1))) < 4 * 0.0031


def test_the_draws_are_those_of_published_figures():
    """The README's demo figures hold only as long as a seed gives the same prompts and texts."""
    drawn, draw = prompts(0, texts=500, pairs=50, judged=20), random.Random(0)
    texts = [card(prompt, draw) for prompt in drawn.texts]
    whole = json.dumps([[prompt.text for prompt in drawn.pairs], texts, [*map(reward, drawn.texts, texts)]])
    assert hashlib.sha256(whole.encode()).hexdigest()[:16] == "ef25bc6296ab5fe4"
