"""The chat demo's questions, and the rule that labels their answers.

An instruct model answers each question several times; the rule says which answer is better, without reading for sense.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping, Sequence

SUBJECTS = (
    "bread",
    "rain",
    "a volcano",
    "the moon",
    "a bicycle",
    "honey",
    "a library",
    "salt",
    "a compass",
    "chess",
    "a violin",
    "glass",
    "a desert",
    "cheese",
    "a lighthouse",
    "paper",
    "a glacier",
    "tea",
    "a bridge",
    "the heart",
    "an earthquake",
    "soap",
    "a forest",
    "steam",
    "a museum",
    "wool",
    "an island",
    "a magnet",
    "the internet",
    "a calendar",
)
QUESTIONS = (
    "In a few words, what is {}?",
    "In one sentence, what is {} good for?",
    "Briefly, how would you explain {} to a child?",
    "In one sentence, why do people care about {}?",
    "What is one fact about {}? Keep it short.",
    "Write one short sentence about {}.",
    "In one sentence, what surprises people about {}?",
    "Give me a short definition of {}.",
)
FEWEST_WORDS = 5
WITHOUT_SENSE = 100.0
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def questions(seed: int, *, answered: int, unseen: int) -> tuple[list[str], list[str]]:
    """Disjoint questions: to make pairs of, and to measure policies with.

    Raises `ValueError` where there are fewer.
    """
    everything = [question.format(subject) for question, subject in itertools.product(QUESTIONS, SUBJECTS)]
    if answered + unseen > len(everything):
        raise ValueError(f"there are {len(everything)} questions, not {answered + unseen}")
    random.Random(seed).shuffle(everything)
    return everything[:answered], everything[answered : answered + unseen]


def score(prompt: Sequence[Mapping[str, str]] | str, completion: str) -> float:
    """The rule: the shorter answer is better, if it has five words or more and names what the question is about.

    Minus its words; minus 100 more for an answer that is shorter than that or about something else. `prompt`: the
    messages that end with the question, or its text; a question without one of `SUBJECTS` is about nothing.
    """
    question = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    words, asked = _WORD.findall(completion.lower()), _WORD.findall(question.lower())
    subjects = {subject.rpartition(" ")[2] for subject in SUBJECTS} & set(asked)
    named = all(any(word in (subject, f"{subject}s", f"{subject}'s") for word in words) for subject in subjects)
    sensible = named and len(words) >= FEWEST_WORDS
    return -float(len(words)) - (0.0 if sensible else WITHOUT_SENSE)
