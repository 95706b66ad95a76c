"""A known number of flaws planted into real pairs, as raw rows: each finding must affect those rows in addition to the
ones that it affected before.

Used by benchmarks/audit_real.py and by the tests. Only pairs without any finding get a flaw, so whatever an audit
finds in addition must be what was planted. Flaws that `prepare` would not let through (missing EOS, tokens of another
pair) are planted into its files. Similarities are computed independently here, from sets of words, without MinHash.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from scoreonce.stages.audit import stage as audit
from scoreonce.stages.common.files import read_json, sha256, write_json
from scoreonce.stages.common.paths import SPLITS, RunPaths, Split
from scoreonce.stages.config import Run
from scoreonce.stages.prepare import stage as prepare

Place = tuple[str, int]
Places = dict[str, set[Place]]
MAX_LENGTH = 4096
LEAST_WORDS = 15  # of the texts of a pair that gets a flaw: shorter ones cannot be altered by a little
MOST_CHARACTERS = 1200  # of each: in capitals or another script a longer one would have too many tokens
NEAR, FAR = (0.8, 0.97), (0.6, 0.78)


@dataclass(frozen=True)
class Pair:
    """A raw row."""

    prompt: str
    chosen: str
    rejected: str
    chosen_score: float = 2.0
    rejected_score: float = 1.0

    @property
    def swapped(self) -> Pair:
        """With the other side preferred."""
        return replace(self, chosen=self.rejected, rejected=self.chosen)

    @property
    def loud(self) -> Pair:
        """The same words."""
        return replace(
            self,
            prompt=self.prompt.upper() + "!",
            chosen=self.chosen.upper() + "!",
            rejected=self.rejected.upper() + "!",
        )


@dataclass(frozen=True)
class Plant:
    """The flawed pair, the others that it needs, and the findings of the first and the others (`quarantine:` too)."""

    own: Pair
    found: tuple[str, ...] = ()
    extra: tuple[tuple[Split, Pair], ...] = ()
    found_extra: tuple[str, ...] = ()
    damage: str = ""  # to the prepared file


@dataclass
class World:
    """Raw rows by split, and the rows that each finding must affect in addition to those that it did before."""

    rows: dict[Split, list[Pair]]
    planted: Places = field(default_factory=lambda: defaultdict(set))
    damage: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, rows: Sequence[Pair]) -> World:
        """The pairs as they are, those of every tenth prompt held out."""
        number = {prompt: i for i, prompt in enumerate(dict.fromkeys(pair.prompt for pair in rows))}
        held_out = [number[pair.prompt] % 10 == 9 for pair in rows]
        return cls(
            {
                split: [pair for pair, held in zip(rows, held_out, strict=True) if held == (split == "test")]
                for split in SPLITS
            }
        )

    def add(self, split: Split, pair: Pair, names: Sequence[str]) -> None:
        self.rows[split].append(pair)
        self.expect(split, len(self.rows[split]) - 1, names)

    def expect(self, split: Split, row: int, names: Sequence[str]) -> None:
        for name in names:
            self.planted[name].add((split, row))


def load(shared: Path, name: str) -> tuple[list[Pair], list[str]]:
    """The pairs of `hh` or `alpaca_eval` (one model's: a pair per prompt), and the prompts of the other set."""
    hh, alpaca = (_read(shared, file) for file in ("hh_rlhf_test", "alpaca_eval1_pairs"))
    if name == "hh":
        return [Pair(row["prompt"], row["chosen"], row["rejected"]) for row in hh], [row["prompt"] for row in alpaca]
    questions = [row["prompt"].split("Human:")[1].split("Assistant:")[0] for row in hh]
    rows = [row for row in alpaca if row["model_2"] == "guanaco-65b" and row["p_response_2_better"] != 0.5]
    return [_labelled(row, second=row["p_response_2_better"] > 0.5) for row in rows], questions


def _read(shared: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(shared / "data/prefs" / f"{name}.jsonl.gz") as lines:
        return [json.loads(line) for line in lines]


def _labelled(row: dict[str, Any], *, second: bool) -> Pair:
    """As HH writes it, so that no token would span the end of another prompt either."""
    sides = f" {row['response_1']}", f" {row['response_2']}"
    return Pair(f"\n\nHuman: {row['prompt']}\n\nAssistant:", sides[second], sides[not second])


def words(text: str) -> list[str]:
    """The words that an audit compares, computed independently."""
    return re.findall(r"\w+", text.lower())


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """The set of 3-word shingles; of a text of fewer words the whole."""
    found = words(text)
    return frozenset(zip(found, found[1:], found[2:], strict=False)) or frozenset([tuple(found)])


def jaccard(left: str, right: str) -> float:
    """Exact, by sets."""
    a, b = shingles(left), shingles(right)
    return len(a & b) / len(a | b)


def similar_pairs(texts: Sequence[str], threshold: float) -> list[tuple[int, int]]:
    """All pairs of texts with other words and a Jaccard index of at least `threshold`, by exhaustive search.

    Two sets that are so alike share one of their first n − ⌈threshold · n⌉ + 1 elements in any common order (prefix
    filter), rarest first here.
    """
    found = [shingles(text) for text in texts]
    frequency = Counter(element for elements in found for element in elements)
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    similar = []
    for number, elements in enumerate(found):
        ordered = sorted(elements, key=lambda element: (frequency[element], element))
        prefix = ordered[: len(ordered) - int(np.ceil(threshold * len(ordered) - 1e-9)) + 1]
        for other in sorted({other for element in prefix for other in holders[element]}):
            common = len(elements & found[other])
            if common >= threshold * (len(elements) + len(found[other]) - common) and words(texts[number]) != words(
                texts[other]
            ):
                similar.append((other, number))
        for element in prefix:
            holders[element].append(number)
    return similar


class Maker:
    """Flaws for real pairs, from the words that other real texts are made of."""

    def __init__(self, seed: int, evaluation: Sequence[str], spare: Sequence[Pair]) -> None:
        self.random = np.random.default_rng(seed)
        self.evaluation = [text.split() for text in evaluation if 12 <= len(words(text)) == len(text.split()) <= 60]
        self.spare = list(spare)  # clean pairs, each for one flaw that needs another pair's texts
        self.vocabulary = sorted({word for pair in spare for word in pair.chosen.split() if word.isalpha()})

    def pair(self) -> Pair:
        return self.spare.pop()

    def draw(self, count: int) -> list[str]:
        return [self.vocabulary[number] for number in self.random.integers(len(self.vocabulary), size=count)]

    def altered(self, text: str, similarity: tuple[float, float]) -> str:
        """The text with words replaced from its end on, so that its similarity to what it was is in the range."""
        parts, target, now = re.split(r"(\w+)", text), self.random.uniform(*similarity), text
        for place in range(len(parts) - 2, 0, -2):
            parts[place] = self.draw(1)[0]
            if jaccard(text, "".join(parts)) < similarity[0] or (now != text and jaccard(text, now) <= target):
                break
            now = "".join(parts)
        assert similarity[0] <= jaccard(text, now) <= similarity[1]
        return now

    def with_evaluation(self, text: str) -> str:
        """The text with 8 to 12 words of an evaluation prompt put in."""
        prompt = self.evaluation[int(self.random.integers(len(self.evaluation)))]
        count = int(self.random.integers(8, 13))
        start = int(self.random.integers(len(prompt) - count + 1))
        parts = text.split(" ")
        place = int(self.random.integers(1, len(parts)))
        return " ".join([*parts[:place], *prompt[start : start + count], *parts[place:]])

    def abroad(self) -> tuple[str, str]:
        """Two answers in the same other language."""
        return ABROAD[int(self.random.integers(len(ABROAD)))]


ABROAD = (
    (
        " Je ne sais pas exactement ce que vous cherchez, mais il y a plusieurs façons de le faire sans trop de travail.",  # noqa: E501
        " Vous pouvez commencer par la première étape, puis revenir ici quand tout est prêt pour la suite.",
    ),
    (
        " No sé muy bien lo que usted busca, pero hay varias formas de hacerlo sin que cueste mucho trabajo.",
        " Puede empezar por el primer paso y volver aquí cuando todo esté listo para los que siguen.",
    ),
    (
        " Ich weiß nicht genau, was Sie suchen, aber es gibt mehrere Wege, auf denen man das ohne viel Arbeit macht.",
        " Fangen Sie mit dem ersten Schritt an und kommen Sie wieder, wenn alles für den nächsten bereit ist.",
    ),
)


def _loop(text: str) -> str:
    return " " + " ".join(text.split()[:8] * 12)


Kind = Callable[[Maker, Pair], Plant]


def _own(change: Callable[[Maker, Pair], dict[str, Any]], *names: str) -> Kind:
    return lambda maker, pair: Plant(replace(pair, **change(maker, pair)), names)


def _with(other: Callable[[Maker, Pair], Pair], *names: str, split: Split = "train", alone: bool = False) -> Kind:
    """Another row that makes both flawed, or itself alone."""
    return lambda maker, pair: Plant(pair, () if alone else names, ((split, other(maker, pair)),), names)


def _crowd(maker: Maker, pair: Pair) -> Plant:
    others = tuple(("train", replace(maker.pair(), prompt=pair.prompt)) for _ in range(8))
    return Plant(pair, ("crowded_prompt",), others, ("crowded_prompt",))


REFUSAL = "I’m sorry, but I can’t help with that. "
CYRILLIC = str.maketrans("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстуввкыз")
KINDS: dict[str, Kind] = {
    "duplicate": _with(lambda maker, pair: pair, "duplicate_pair", alone=True),
    "contradiction": _with(lambda maker, pair: pair.swapped, "contradictory_pair"),
    "loud copy": _with(lambda maker, pair: pair.loud, "duplicate_after_normalisation"),
    "loud contradiction": _with(lambda maker, pair: pair.loud.swapped, "contradictory_after_normalisation"),
    "leak": lambda maker, pair: Plant(
        pair, ("quarantine:prompt_is_in_test_set",), (("test", replace(maker.pair(), prompt=pair.prompt)),)
    ),
    "loud leak": _with(
        lambda maker, pair: replace(maker.pair(), prompt=pair.loud.prompt),
        "prompt_in_both_splits_after_normalisation",
        split="test",
    ),
    "tie": _own(lambda maker, pair: {"chosen_score": 3.0, "rejected_score": 3.0}, "scores_are_tied"),
    "scores": _own(lambda maker, pair: {"rejected_score": 4.0}, "scores_prefer_rejected"),
    "crowd": _crowd,
    "near prompt": _with(
        lambda maker, pair: replace(maker.pair(), prompt=maker.altered(pair.prompt, NEAR)), "near_duplicate_prompt"
    ),
    "near leak": _with(
        lambda maker, pair: replace(maker.pair(), prompt=maker.altered(pair.prompt, NEAR)),
        "near_duplicate_prompt",
        "near_duplicate_prompt_in_both_splits",
        split="test",
    ),
    "near completion": _with(
        lambda maker, pair: replace(maker.pair(), chosen=maker.altered(pair.rejected, NEAR)),
        "near_duplicate_completion",
    ),
    "far prompt": _with(lambda maker, pair: replace(maker.pair(), prompt=maker.altered(pair.prompt, FAR))),
    "far completion": _with(lambda maker, pair: replace(maker.pair(), chosen=maker.altered(pair.rejected, FAR))),
    "near sides": _own(lambda maker, pair: {"rejected": maker.altered(pair.chosen, NEAR)}, "near_identical_sides"),
    "cut": _own(
        lambda maker, pair: {"chosen": pair.chosen + " " + " ".join(maker.draw(MAX_LENGTH))},
        "one_side_truncated",
        "chosen_truncated",
    ),
    "cut rejected": _own(
        lambda maker, pair: {"rejected": pair.rejected + " " + " ".join(maker.draw(MAX_LENGTH))},
        "one_side_truncated",
        "rejected_truncated",
    ),
    "cut prompt": _own(
        lambda maker, pair: {"prompt": " ".join(maker.draw(MAX_LENGTH)) + pair.prompt}, "prompt_truncated"
    ),
    "merged": _own(
        lambda maker, pair: {
            "prompt": pair.prompt.rstrip() + " ",
            "chosen": pair.chosen.lstrip(),
            "rejected": pair.rejected.lstrip(),
        },
        "boundary_merged",
    ),
    "special text": _own(lambda maker, pair: {"chosen": pair.chosen + "<|im_end|>"}, "special_token_in_completion"),
    "special id": _own(lambda maker, pair: {"rejected": pair.rejected + "<pad> more"}, "special_token_in_completion"),
    "special prompt": _own(lambda maker, pair: {"prompt": "[INST]" + pair.prompt}, "special_token_in_prompt"),
    "two BOS": _own(lambda maker, pair: {"prompt": "<s><s>" + pair.prompt}, "double_bos", "special_token_in_prompt"),
    "no EOS": lambda maker, pair: Plant(pair, ("missing_eos",), damage="missing_eos"),
    "other tokens": lambda maker, pair: Plant(pair, ("tokens_disagree",), damage="tokens_disagree"),
    "loop": _own(lambda maker, pair: {"chosen": _loop(pair.chosen)}, "chosen_loops"),
    "rejected loop": _own(lambda maker, pair: {"rejected": _loop(pair.rejected)}, "rejected_loops"),
    "refusal": _own(lambda maker, pair: {"chosen": " " + REFUSAL + pair.chosen}, "chosen_refuses"),
    "rejected refusal": _own(lambda maker, pair: {"rejected": " " + REFUSAL + pair.rejected}, "rejected_refuses"),
    "identity": _own(lambda maker, pair: {"chosen": pair.chosen + " I was trained by OpenAI."}, "chosen_names_itself"),
    "script": _own(lambda maker, pair: {"rejected": pair.rejected.lower().translate(CYRILLIC)}, "scripts_differ"),
    "answer script": _own(
        lambda maker, pair: {
            side: text.lower().translate(CYRILLIC)
            for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected))
        },
        "script_of_prompt_differs",
    ),
    "language": _own(lambda maker, pair: {"rejected": maker.abroad()[0]}, "languages_differ"),
    "answer language": _own(
        lambda maker, pair: dict(zip(("chosen", "rejected"), maker.abroad(), strict=True)), "language_of_prompt_differs"
    ),
    "control": _own(lambda maker, pair: {"prompt": "\u202e\x07" + pair.prompt}, "control_character"),
    "contaminated": _own(lambda maker, pair: {"prompt": maker.with_evaluation(pair.prompt)}, "contaminated_prompt"),
    "contaminated side": _own(
        lambda maker, pair: {"rejected": maker.with_evaluation(pair.rejected)}, "contaminated_completion"
    ),
    "blank chosen": _own(lambda maker, pair: {"chosen": " \n"}, "quarantine:chosen_is_blank"),
    "blank rejected": _own(lambda maker, pair: {"rejected": ""}, "quarantine:rejected_is_blank"),
    "same sides": _own(lambda maker, pair: {"rejected": pair.chosen}, "quarantine:sides_are_identical"),
}
NEAR_FINDINGS = ("near_duplicate_prompt", "near_duplicate_prompt_in_both_splits", "near_duplicate_completion")


def audited(folder: Path, world: World, tokenizer: Path, evaluation: Sequence[str]) -> RunPaths:
    """Write the rows, prepare them, damage the prepared files as planted, and audit them."""
    folder.mkdir(parents=True)
    for split, rows in world.rows.items():
        lines = (json.dumps({**asdict(pair), "source": split}) for pair in rows)
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "evaluation.txt").write_text("\n".join(" ".join(text.split()) for text in evaluation), encoding="utf-8")
    run = Run.model_validate(
        {
            "out": str(folder / "out"),
            "reference": {"model": "none"},
            "data": {
                "source": str(folder / "train.jsonl"),
                "test_source": str(folder / "test.jsonl"),
                "tokenizer": str(tokenizer),
                "max_length": MAX_LENGTH,
                "max_prompt_length": MAX_LENGTH // 2,
            },
            "audit": {"contamination": [str(folder / "evaluation.txt")]},
        }
    )
    prepare.prepare(run)
    paths = RunPaths.of(run)
    _damage(paths, world.damage)
    audit.audit(run)
    return paths


def _damage(paths: RunPaths, damage: dict[str, list[int]]) -> None:
    """Take EOS from some rows' chosen side, and a token from others' prompt."""
    path = paths.tokens("train")
    rows = pl.read_parquet(paths.pairs("train"))["row"]
    with pa.OSFile(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    ids = {name: table[name].to_pylist() for name in ("prompt_ids", "chosen_ids")}
    for place, row in enumerate(rows):
        if row in damage["missing_eos"]:
            ids["chosen_ids"][place][-1] = ids["chosen_ids"][place][0]
        if row in damage["tokens_disagree"]:
            ids["prompt_ids"][place].pop()
    for name, values in ids.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1024)
    manifest = read_json(paths.pairs_manifest)
    write_json(paths.pairs_manifest, manifest | {"files": manifest["files"] | {path.name: sha256(path)}})


def found(paths: RunPaths) -> Places:
    """The rows of every finding, and of every reason for quarantine."""
    table = pl.read_parquet(paths.audit_pairs)
    places = {
        finding["name"]: set(table.filter(finding["column"]).select("split", "row").iter_rows())
        for finding in read_json(paths.audit_summary)["findings"]
    }
    quarantine = pl.read_parquet(paths.quarantine)
    for (reason,), rows in quarantine.group_by("reason"):
        places[f"quarantine:{reason}"] = set(rows.select("source", "row").iter_rows())
    return places


def planted(rows: Sequence[Pair], before: RunPaths, evaluation: Sequence[str], *, each: int, seed: int = 0) -> World:
    """The rows with `each` of every kind of flaw; `before` is an audit of the rows alone."""
    world = World.of(rows)
    train = world.rows["train"].copy()
    suited = _suited(before)
    prompts = Counter(pair.prompt for pair in train)
    clean = [
        row for row, pair in enumerate(train) if row in suited and prompts[pair.prompt] == 1 and _of_usual_size(pair)
    ]
    order = np.random.default_rng(seed).permutation(clean).tolist()
    flaws = [plant for plant in KINDS.values() for _ in range(each)]
    own, spare = order[: len(flaws)], order[len(flaws) :]
    maker = Maker(seed, evaluation, [train[row] for row in spare])
    for row, plant in zip(own, flaws, strict=True):
        flaw = plant(maker, train[row])
        world.rows["train"][row] = flaw.own
        world.expect("train", row, flaw.found)
        for split, pair in flaw.extra:
            world.add(split, pair, flaw.found_extra)
        if flaw.damage:
            world.damage[flaw.damage].append(row)
    return world


def _suited(before: RunPaths) -> set[int]:
    """Training rows without any finding, even when swapped, all of whose texts have a known language."""
    concerned = {row for places in found(before).values() for split, row in places if split == "train"}
    told = pl.all_horizontal(pl.col(f"{side}_language").is_not_null() for side in ("prompt", "chosen", "rejected"))
    table = pl.read_parquet(before.audit_pairs).filter(pl.col("split") == "train")
    return set(table.filter(told & ~pl.col("rejected_names_itself"))["row"]) - concerned


def _of_usual_size(pair: Pair) -> bool:
    texts = (pair.prompt, pair.chosen, pair.rejected)
    return all(len(words(text)) >= LEAST_WORDS and len(text) <= MOST_CHARACTERS for text in texts)


def alike(paths: RunPaths, sides: Sequence[str], threshold: float) -> set[Place]:
    """The rows with a near-duplicate text in one of the sides, by exhaustive search."""
    table = pl.concat([pl.read_parquet(paths.pairs(split)).with_columns(split=pl.lit(split)) for split in SPLITS])
    holders: dict[str, set[Place]] = defaultdict(set)
    texts: dict[str, str] = {}
    for row in table.iter_rows(named=True):
        for side in sides:
            key = " ".join(words(row[side]))
            texts.setdefault(key, row[side])
            holders[key].add((row["split"], row["row"]))
    keys = list(texts)
    both = (holders[keys[a]] | holders[keys[b]] for a, b in similar_pairs([texts[key] for key in keys], threshold))
    return {place for places in both if len(places) > 1 for place in places}
