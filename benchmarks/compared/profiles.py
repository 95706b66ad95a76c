"""Three length profiles of preference pairs, as token ids of the shared 2,048-word tokenizer, or random ones.

Lengths decide the cost and the ids do not, so generated pairs stand in where the real ones are absent.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from flops import PairLengths

VOCABULARY = 2_048
SPECIAL = 4  # ids that no text holds: padding, BOS, EOS, unknown
TRANSCRIPTS = 800  # of HH, enough for the long prompts


@dataclass(frozen=True)
class TokenPair:
    """Token ids of a pair; a completion's EOS is not among them, both sides append it."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def lengths(self) -> PairLengths:
        """With the EOS of each completion."""
        return PairLengths(len(self.prompt), (len(self.chosen) + 1, len(self.rejected) + 1))


@dataclass(frozen=True)
class Profile:
    """Pairs of a kind: where real ones come from, how long they may be, how long generated ones are."""

    name: str
    title: str
    source: str  # in shared/data/prefs
    sides: tuple[str, str, str]  # columns there
    max_prompt: int
    max_length: int
    prompt: tuple[float, float]  # of generated ones: median tokens, and sigma of the logarithm
    completion: tuple[float, float]
    fixed: tuple[int, int] | None = None  # tokens of every prompt and completion, EOS included

    def pairs(self, count: int, shared: Path | None) -> list[TokenPair]:
        """`count` pairs, the same ones every time."""
        made = self._generated(count) if shared is None else self._real(count, shared)
        return [self._cut(pair) for pair in made]

    def _cut(self, pair: TokenPair) -> TokenPair:
        """Neither `prepare` nor TRL finds anything left to cut."""
        prompt = pair.prompt[-self.max_prompt :]
        room = self.max_length - len(prompt) - 1
        return TokenPair(prompt, pair.chosen[:room], pair.rejected[:room])

    def _real(self, count: int, shared: Path) -> list[TokenPair]:
        encode = _encoder(shared)
        rows = _rows(shared / "data/prefs" / self.source)
        if self.fixed is None:
            spread = rows[:: max(1, len(rows) // count)][:count]
            return [TokenPair(*(encode(row[side]) for side in self.sides)) for row in spread]
        words = chain.from_iterable(encode(row["prompt"] + row["chosen"]) for row in rows[:TRANSCRIPTS])
        return [_of(words, *self.fixed) for _ in range(count)]

    def _generated(self, count: int) -> list[TokenPair]:
        random = np.random.default_rng(0)
        words = iter(lambda: int(random.integers(SPECIAL, VOCABULARY)), None)
        if self.fixed is not None:
            return [_of(words, *self.fixed) for _ in range(count)]

        def some(median: float, sigma: float) -> list[int]:
            return list(islice(words, max(1, int(random.lognormal(np.log(median), sigma)))))

        return [TokenPair(some(*self.prompt), some(*self.completion), some(*self.completion)) for _ in range(count)]


HH = Profile(
    "hh",
    "HH (short, long prompt share)",
    "hh_rlhf_test.jsonl.gz",
    ("prompt", "chosen", "rejected"),
    max_prompt=384,
    max_length=512,
    prompt=(134, 0.9),
    completion=(46, 0.85),
)
COMPLETIONS = Profile(
    "completions",
    "UltraFeedback-like (long completions)",
    "alpaca_eval1_pairs.jsonl.gz",
    ("prompt", "response_1", "response_2"),
    max_prompt=512,
    max_length=1_024,
    prompt=(32, 0.9),
    completion=(205, 0.8),
)
MULTI_TURN = Profile(
    "multi_turn",
    "multi-turn (prompt 1,024, completion 256)",
    "hh_rlhf_test.jsonl.gz",
    ("prompt", "chosen", "rejected"),
    max_prompt=1_024,
    max_length=1_280,
    prompt=(1_024, 0.0),
    completion=(256, 0.0),
    fixed=(1_024, 256),
)
PROFILES = (HH, COMPLETIONS, MULTI_TURN)


def _of(words: Iterator[int], prompt: int, completion: int) -> TokenPair:
    return TokenPair(*(list(islice(words, length)) for length in (prompt, completion - 1, completion - 1)))


def _rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _encoder(shared: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(shared / "data/models/hh-llama-2.8M/tokenizer.json"))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids
