"""The known reward of the demo's synthetic task, and noisy labels drawn from it.

The reward reads nothing but the text, so that it can judge whatever a policy writes.
"""

from __future__ import annotations

import math
import random
import re

from scoreonce.pipeline.demo.task import HARSH, PLEASANT, Prompt

FREE_WORDS = 40
_WORD = re.compile(r"[A-Za-z]+")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]")


def reward(prompt: Prompt, text: str) -> float:
    """The true reward of a text, in points.

    distinct pleasant words - harsh words + 1 for the recipient's name + 1 for the place - repeated sentences - 1/4 for
    every word over 40. Repeating a pleasant word gains nothing, and a card that ignores its prompt loses two points.
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
    """A noisy label (Bradley and Terry 1952): the first wins with probability sigmoid(first - second)."""
    return draw.random() < 1 / (1 + math.exp(second - first))
