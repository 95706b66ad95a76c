"""The prompts and texts of the demo's synthetic task: writing a postcard.

A prompt names the recipient, the place and the month; a card is a heading, a greeting and a few sentences drawn from a
small grammar.
"""

from __future__ import annotations

import itertools
import random
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


@dataclass(frozen=True)
class Prompt:
    """Recipient, place and month of a card."""

    name: str
    place: str
    month: str

    @property
    def text(self) -> str:
        """The prompt as a model reads it."""
        return f"A postcard to {self.name} from {self.place} in {self.month}:\n"


@dataclass(frozen=True)
class Prompts:
    """Disjoint prompts for three uses."""

    texts: list[Prompt]
    pairs: list[Prompt]
    judged: list[Prompt]


def prompts(seed: int, *, texts: int, pairs: int, judged: int) -> Prompts:
    """Draw disjoint prompts: for the reference's training texts, for sampled pairs, and for judging policies.

    Raises `ValueError` where the task has fewer prompts.
    """
    everything = [Prompt(*parts) for parts in itertools.product(NAMES, PLACES, MONTHS)]
    if texts + pairs + judged > len(everything):
        raise ValueError(f"the task has {len(everything)} prompts, not {texts + pairs + judged}")
    random.Random(seed).shuffle(everything)
    first, second = texts, texts + pairs
    return Prompts(everything[:first], everything[first:second], everything[second : second + judged])


def card(prompt: Prompt, draw: random.Random) -> str:
    """A training text: two to seven sentences, each quality pleasant or harsh according to the card's random mood."""
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
