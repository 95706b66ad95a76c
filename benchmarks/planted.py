"""Generated pairs with planted flaws: each finding must affect exactly the known rows, and no finding any other.

Used by benchmarks/audit.py and by the tests. A word is a token; a pair has about 300 tokens. Rows 0 to `pairs` − 1 are
base pairs, the first of them with one flaw each; further pairs that a flaw needs (a copy, a prompt in the test split)
follow.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scoreonce.pipeline.text.formats import Example
from scoreonce.pipeline.text.rows_to_pairs import PreparedPair
from scoreonce.pipeline.text.tokenize import EncodedPair
from scoreonce.schemas import identity
from scoreonce.schemas.manifests import PairCounts, PairsManifest, TokenizerRecord
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256
from scoreonce.stages.common.paths import RunPaths, Split
from scoreonce.stages.config import Data
from scoreonce.stages.data.prepared_pairs import data_settings
from scoreonce.stages.prepare.pair_files import open_pair_files, pair_table, token_table, uncommitted

Words = npt.NDArray[np.int64]
SPECIAL = ("<unk>", "<s>", "</s>", "<|im_end|>", "!")
BOS, EOS, IM_END, LOUD = 1, 2, 3, 4
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "ol")]
VOCABULARY = [f"{a}{b}{c}" for a in SYLLABLES for b in SYLLABLES for c in ("", "t")][:20_000]
EVALUATION_PROMPTS = 500
AT_ONCE = 1_024  # rows that are written together


@dataclass(frozen=True)
class Side:
    """A text: its words, a prefix and a suffix, and whether it is in upper case."""

    words: Words
    before: str = ""
    after: str = ""
    loud: bool = False
    alphabet: str = "latin"
    special: tuple[int, ...] = ()  # ids inside
    cut: bool = False
    ends: bool = True
    double_bos: bool = False

    @property
    def text(self) -> str:
        """The text as in the dataset."""
        words = " ".join(VOCABULARY[word] for word in self.words)
        if self.alphabet == "cyrillic":
            words = words.translate(str.maketrans("abdefgiklmnoprstuvz", "абдефгиклмнопрстувз"))
        return f"{self.before}{words.upper() + '!' if self.loud else words}{self.after}"

    def ids(self, *, prompt: bool) -> npt.NDArray[np.int32]:
        """The token ids."""
        start = [BOS, BOS] if self.double_bos else [BOS] if prompt else []
        end = [] if prompt or self.cut or not self.ends else [EOS]
        body = np.concatenate([self.words + len(SPECIAL), [LOUD] * self.loud, self.special])
        return np.concatenate([start, body, end]).astype(np.int32)


@dataclass(frozen=True)
class Case:
    """A pair to write."""

    prompt: Side
    chosen: Side
    rejected: Side
    split: Split = "train"
    scores: tuple[float, float] | None = None
    merged: bool = False

    @property
    def swapped(self) -> Case:
        """With the other side preferred."""
        return replace(self, chosen=self.rejected, rejected=self.chosen)

    def prepared(self, row: int) -> PreparedPair:
        """As `prepare` makes it."""
        prompt, chosen, rejected = (
            self.prompt.ids(prompt=True),
            self.chosen.ids(prompt=False),
            self.rejected.ids(prompt=False),
        )
        scores = self.scores or (2.0, 1.0)
        ids = [identity.completion_id(prompt, side) for side in (chosen, rejected)]
        return PreparedPair(
            row,
            Example(self.prompt.text, self.chosen.text, self.rejected.text, *scores, source=f"source {row % 3}"),
            EncodedPair(prompt, chosen, rejected, self.merged, self.prompt.cut, self.chosen.cut, self.rejected.cut),
            identity.prompt_id(prompt),
            ids[0],
            ids[1],
            identity.pair_id(*ids),
        )


@dataclass(frozen=True)
class Plant:
    """The flawed pair, the others that it needs, and the findings that affect the first and the others."""

    own: Case
    extra: tuple[Case, ...] = ()
    found: tuple[str, ...] = ()
    found_extra: tuple[str, ...] = ()


@dataclass
class World:
    """What was written."""

    paths: RunPaths
    evaluation: Path
    expected: dict[str, set[tuple[str, int]]] = field(default_factory=lambda: defaultdict(set))


class Maker:
    """Random texts and flaws."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        # A few words are frequent, as in any language.
        weights = 1 / (np.arange(len(VOCABULARY)) + 20)
        self.cumulated = np.cumsum(weights / weights.sum())
        self.evaluation = [self.words(20, 40) for _ in range(EVALUATION_PROMPTS)]

    def words(self, least: int, most: int) -> Words:
        return self.draw(int(self.random.integers(least, most + 1)))

    def draw(self, count: int) -> Words:
        found = np.searchsorted(self.cumulated, self.random.random(count))
        return np.minimum(found, len(VOCABULARY) - 1)

    def prompt(self) -> Side:
        return Side(self.words(40, 80))

    def completion(self) -> Side:
        return Side(self.words(80, 158))

    def case(self, split: Split = "train") -> Case:
        return Case(self.prompt(), self.completion(), self.completion(), split)

    def altered(self, side: Side, similarity: tuple[float, float]) -> Side:
        """The side with its last words replaced, such that the Jaccard index of 3-word shingles is in the range."""
        shingles = len(side.words) - 2
        low, high = (shingles * (1 - value) / (1 + value) for value in reversed(similarity))
        count = int(self.random.integers(max(1, int(np.ceil(low))), max(int(high), 1) + 1))
        return replace(side, words=np.concatenate([side.words[:-count], self.draw(count)]))

    def with_evaluation(self, side: Side) -> Side:
        """The side with 8 to 12 words of an evaluation prompt put in."""
        prompt = self.evaluation[int(self.random.integers(len(self.evaluation)))]
        count = int(self.random.integers(8, 13))
        start = int(self.random.integers(len(prompt) - count + 1))
        place = int(self.random.integers(len(side.words)))
        words = np.concatenate([side.words[:place], prompt[start : start + count], side.words[place:]])
        return replace(side, words=words)


def _both(name: str, other: Callable[[Maker, Case], Case], *more: str) -> Callable[[Maker, Case], Plant]:
    return lambda maker, case: Plant(case, (other(maker, case),), (name, *more), (name, *more))


def _own(change: Callable[[Maker, Case], Case], *names: str) -> Callable[[Maker, Case], Plant]:
    return lambda maker, case: Plant(change(maker, case), (), names)


def _loud(case: Case) -> Case:
    return replace(case, **{side: replace(getattr(case, side), loud=True) for side in ("prompt", "chosen", "rejected")})


def _crowd(maker: Maker, case: Case) -> Plant:
    others = tuple(replace(maker.case(), prompt=case.prompt) for _ in range(8))
    return Plant(case, others, ("crowded_prompt",), ("crowded_prompt",))


NEAR, FAR = (0.8, 0.97), (0.6, 0.78)
REFUSAL = "I’m sorry, but I can’t help with that. "
KINDS: dict[str, Callable[[Maker, Case], Plant]] = {
    "nothing": lambda maker, case: Plant(case),
    "duplicate": lambda maker, case: Plant(case, (case,), (), ("duplicate_pair",)),
    "contradiction": _both("contradictory_pair", lambda maker, case: case.swapped),
    "loud copy": _both("duplicate_after_normalisation", lambda maker, case: _loud(case)),
    "loud contradiction": _both("contradictory_after_normalisation", lambda maker, case: _loud(case.swapped)),
    "leak": _both("prompt_in_both_splits", lambda maker, case: replace(maker.case("test"), prompt=case.prompt)),
    "loud leak": _both(
        "prompt_in_both_splits_after_normalisation",
        lambda maker, case: replace(maker.case("test"), prompt=replace(case.prompt, loud=True)),
    ),
    "tie": _own(lambda maker, case: replace(case, scores=(3.0, 3.0)), "scores_are_tied"),
    "scores": _own(lambda maker, case: replace(case, scores=(1.0, 4.0)), "scores_prefer_rejected"),
    "crowd": _crowd,
    "near prompt": _both(
        "near_duplicate_prompt", lambda maker, case: replace(maker.case(), prompt=maker.altered(case.prompt, NEAR))
    ),
    "near leak": _both(
        "near_duplicate_prompt",
        lambda maker, case: replace(maker.case("test"), prompt=maker.altered(case.prompt, NEAR)),
        "near_duplicate_prompt_in_both_splits",
    ),
    "near completion": _both(
        "near_duplicate_completion",
        lambda maker, case: replace(maker.case(), chosen=maker.altered(case.rejected, NEAR)),
    ),
    "far prompt": lambda maker, case: Plant(case, (replace(maker.case(), prompt=maker.altered(case.prompt, FAR)),)),
    "far completion": lambda maker, case: Plant(
        case, (replace(maker.case(), chosen=maker.altered(case.rejected, FAR)),)
    ),
    "near sides": _own(
        lambda maker, case: replace(case, rejected=maker.altered(case.chosen, NEAR)), "near_identical_sides"
    ),
    "cut": _own(
        lambda maker, case: replace(case, chosen=replace(case.chosen, cut=True)),
        "one_side_truncated",
        "chosen_truncated",
    ),
    "cut rejected": _own(
        lambda maker, case: replace(case, rejected=replace(case.rejected, cut=True)),
        "one_side_truncated",
        "rejected_truncated",
    ),
    "cut prompt": _own(lambda maker, case: replace(case, prompt=replace(case.prompt, cut=True)), "prompt_truncated"),
    "merged": _own(lambda maker, case: replace(case, merged=True), "boundary_merged"),
    "special text": _own(
        lambda maker, case: replace(case, chosen=replace(case.chosen, after="<|im_end|>")),
        "special_token_in_completion",
    ),
    "special id": _own(
        lambda maker, case: replace(case, rejected=replace(case.rejected, special=(IM_END, 9))),
        "special_token_in_completion",
    ),
    "special prompt": _own(
        lambda maker, case: replace(case, prompt=replace(case.prompt, special=(IM_END, 9))), "special_token_in_prompt"
    ),
    "no EOS": _own(lambda maker, case: replace(case, chosen=replace(case.chosen, ends=False)), "missing_eos"),
    "two BOS": _own(lambda maker, case: replace(case, prompt=replace(case.prompt, double_bos=True)), "double_bos"),
    "loop": _own(lambda maker, case: replace(case, chosen=Side(np.tile(maker.draw(10), 12))), "chosen_loops"),
    "rejected loop": _own(
        lambda maker, case: replace(case, rejected=Side(np.tile(maker.draw(10), 12))), "rejected_loops"
    ),
    "refusal": _own(lambda maker, case: replace(case, chosen=replace(case.chosen, before=REFUSAL)), "chosen_refuses"),
    "rejected refusal": _own(
        lambda maker, case: replace(case, rejected=replace(case.rejected, before=REFUSAL)), "rejected_refuses"
    ),
    "identity": _own(
        lambda maker, case: replace(case, chosen=replace(case.chosen, after=" I was trained by OpenAI.")),
        "chosen_names_itself",
    ),
    "script": _own(
        lambda maker, case: replace(case, rejected=replace(case.rejected, alphabet="cyrillic")), "scripts_differ"
    ),
    "answer script": _own(
        lambda maker, case: replace(
            case, chosen=replace(case.chosen, alphabet="cyrillic"), rejected=replace(case.rejected, alphabet="cyrillic")
        ),
        "script_of_prompt_differs",
    ),
    "control": _own(
        lambda maker, case: replace(case, prompt=replace(case.prompt, after="\u202e\x07")), "control_character"
    ),
    "contaminated": _own(
        lambda maker, case: replace(case, prompt=maker.with_evaluation(case.prompt)), "contaminated_prompt"
    ),
    "contaminated side": _own(
        lambda maker, case: replace(case, rejected=maker.with_evaluation(case.rejected)), "contaminated_completion"
    ),
}


def write(
    paths: RunPaths, pairs: int, *, each: int, seed: int = 0, source: str = "none", tokenizer: str = "none"
) -> World:
    """Write what `prepare` writes: `pairs` base pairs, `each` of them with every kind of flaw.

    `source` and `tokenizer` are what the run file will name.
    """
    maker = Maker(seed)
    world = World(paths, paths.out / "evaluation.jsonl")
    counts = {"train": 0, "test": 0}
    with uncommitted(paths) as growing:
        with open_pair_files(paths, growing) as files:
            cases = enumerate(_cases(maker, pairs, each))
            while some := list(islice(cases, AT_ONCE)):
                for split, pieces in files.pairs.items():
                    rows = [case.prepared(row) for row, (case, _) in some if case.split == split]
                    pieces.add(pair_table(rows), token_table(rows))
                    counts[split] += len(rows)
                for row, (case, names) in some:
                    for name in names:
                        world.expected[name].add((case.split, row))
        digests = {path.name: sha256(temporary) for path, temporary in growing.items()}
    lines = (json.dumps({"prompt": Side(words).text}) for words in maker.evaluation)
    world.evaluation.write_text("\n".join(lines), encoding="utf-8")
    manifest = PairsManifest(
        config=data_settings(Data(source=source)),
        inputs={},
        tokenizer=TokenizerRecord(name=tokenizer, vocab_size=0, digest=""),
        counts=PairCounts(raw=sum(counts.values()), quarantined=0, by_reason={}, **counts),
        truncated={},
        boundary_merged=0,
        lengths={},
        files=digests,
    )
    manifests.write(paths.pairs_manifest, manifest)
    return world


def _cases(maker: Maker, pairs: int, each: int) -> Iterator[tuple[Case, tuple[str, ...]]]:
    extras: list[tuple[Case, tuple[str, ...]]] = []
    flaws = [kind for kind in KINDS.values() for _ in range(each)]
    for row in range(max(pairs, len(flaws))):
        plant = flaws[row](maker, maker.case()) if row < len(flaws) else Plant(maker.case())
        yield plant.own, plant.found
        extras += [(case, plant.found_extra) for case in plant.extra]
    yield from extras


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of those words, so that the audit knows its control tokens."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(WordLevel({word: i for i, word in enumerate([*SPECIAL, *VOCABULARY])}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|im_end|>"],
    ).save_pretrained(folder)
