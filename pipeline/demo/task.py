"""A small world of postcards whose true reward is known: what the demo measures policies against.

A prompt names who gets the card, from where and when; a card is a head, a greeting and a few sentences of a grammar.
The true reward reads nothing but the text, so that whatever a policy writes can be judged.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

NAMES = (
    "Ada",
    "Bruno",
    "Clara",
    "Dario",
    "Elif",
    "Femi",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Kaya",
    "Lena",
    "Milo",
    "Nora",
    "Omar",
    "Paula",
    "Quinn",
    "Rosa",
    "Samir",
    "Tilda",
    "Umar",
    "Vera",
    "Wanda",
    "Yusuf",
)
PLACES = (
    "Lisbon",
    "Bergen",
    "Cairo",
    "Delft",
    "Esbjerg",
    "Fez",
    "Ghent",
    "Hanoi",
    "Izmir",
    "Jaipur",
    "Kyoto",
    "Lima",
    "Malmo",
    "Nantes",
    "Oslo",
    "Porto",
    "Quito",
    "Riga",
    "Seville",
    "Trieste",
    "Utrecht",
    "Verona",
    "Warsaw",
    "York",
)
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
THINGS = (
    "harbour",
    "market",
    "bread",
    "hotel",
    "museum",
    "garden",
    "river",
    "bridge",
    "soup",
    "music",
    "train",
    "coffee",
    "beach",
    "old town",
    "tower",
    "boat",
    "street",
    "view",
    "tea",
    "guide",
)
PLEASANT = (
    "lovely",
    "golden",
    "warm",
    "gentle",
    "bright",
    "splendid",
    "sweet",
    "calm",
    "merry",
    "fresh",
    "charming",
    "kind",
)
PLAIN = ("small", "old", "long", "quiet", "tall", "round", "grey", "busy", "simple", "narrow")
HARSH = ("dull", "noisy", "dirty", "cold", "sour", "rude", "broken", "stale", "crowded", "damp")
SENTENCES = (
    "The {thing} was {quality}.",
    "We found the {thing} {quality}.",
    "I remember a {quality} {thing}.",
    "On {day} the {thing} was {quality} and {other}.",
    "The {thing} here is {quality} but {other}.",
    "Such a {quality} {thing}!",
    "Every {day} we saw the {quality} {thing}.",
    "They say the {thing} is {quality}.",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

FREE_WORDS = 40
_WORD = re.compile(r"[A-Za-z]+")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]")


@dataclass(frozen=True)
class Prompt:
    """Who gets the card, from where and when."""

    name: str
    place: str
    month: str

    @property
    def text(self) -> str:
        """The prompt as a model reads it."""
        return f"A postcard to {self.name} from {self.place} in {self.month}:\n"


@dataclass(frozen=True)
class Prompts:
    """Prompts for three uses, none of them in two."""

    texts: list[Prompt]
    pairs: list[Prompt]
    judged: list[Prompt]


def prompts(seed: int, *, texts: int, pairs: int, judged: int) -> Prompts:
    """Draw disjoint prompts: for texts to learn from, for sampled pairs, and for judging policies.

    Raises `ValueError` where the world has fewer prompts.
    """
    everything = [Prompt(*parts) for parts in itertools.product(NAMES, PLACES, MONTHS)]
    if texts + pairs + judged > len(everything):
        raise ValueError(f"the world has {len(everything)} prompts, not {texts + pairs + judged}")
    random.Random(seed).shuffle(everything)
    first, second = texts, texts + pairs
    return Prompts(everything[:first], everything[first:second], everything[second : second + judged])


def card(prompt: Prompt, draw: random.Random) -> str:
    """One postcard as people of this world write them: two to seven sentences in a mood of the writer's own."""
    mood = draw.uniform(0.2, 1.0)
    sentences = " ".join(_sentence(mood, draw) for _ in range(draw.randint(2, 7)))
    return f"{prompt.place} in {prompt.month}\nDear {prompt.name},\n{sentences}\nYours, {draw.choice(NAMES)}"


def _sentence(mood: float, draw: random.Random) -> str:
    quality, other = (_quality(mood, draw) for _ in range(2))
    return draw.choice(SENTENCES).format(thing=draw.choice(THINGS), quality=quality, other=other, day=draw.choice(DAYS))


def _quality(mood: float, draw: random.Random) -> str:
    if draw.random() < 0.4:
        return draw.choice(PLAIN)
    return draw.choice(PLEASANT if draw.random() < mood else HARSH)


def reward(prompt: Prompt, text: str) -> float:
    """The true reward of a text, in points: distinct pleasant words - harsh words + 1 for the reader's name + 1 for the
    place - sentences said before - 1/4 for every word over 40.

    Praise can be overdone but not repeated for profit, and a card that forgets its prompt is worth less.
    """
    words = [word.lower() for word in _WORD.findall(text)]
    sentences = [sentence.strip() for sentence in _SENTENCE.findall(text)]
    return (
        len(set(words) & set(PLEASANT))
        - sum(word in HARSH for word in words)
        + (prompt.name.lower() in words)
        + (prompt.place.lower() in words)
        - (len(sentences) - len(set(sentences)))
        - max(0, len(words) - FREE_WORDS) / 4
    )


def prefers_first(first: float, second: float, draw: random.Random) -> bool:
    """One noisy judgement by Bradley and Terry: the first wins with probability sigmoid(first - second)."""
    return draw.random() < 1 / (1 + math.exp(second - first))


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by the normal approximation, with the sample variance (n - 1)."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, mean, mean
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = 1.96 * math.sqrt(variance / len(values))
    return mean, mean - half, mean + half
