"""The world in which claims are tested: a small reference model, and pairs with a known reward and known flips.

The demo's postcards, cut to two sentences, so that a training takes seconds: a model of 150,000 parameters learns to
write them, and writes two per prompt; the true reward says which is better. Each seed has pairs of its own.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scoreonce import Run, prepare, score, train
from scoreonce.pipeline.demo.reward import reward
from scoreonce.pipeline.demo.task import Prompt, Prompts, card, prompts
from scoreonce.stages.demo import model as demo_model
from scoreonce.stages.demo import sampling
from scoreonce.stages.models import loading, tokenizers

RUN_FILE = Path(__file__).parent / "run.toml"
TASK_SEED = 0
SENTENCES = 2
HALVES = ("low gap", "high gap")
PARTS = ("all", *HALVES, "near ties", "outliers")
NEAR = 1.0  # points between the sides of a near tie, at most
OUTLIERS = 0.2  # of the pairs
_SENTENCE = re.compile(r"[^.!?]+[.!?] ?")


@dataclass(frozen=True)
class Size:
    """How large the world is; `SMOKE` is for whether it runs."""

    texts: int = 3000
    pool: int = 3600  # prompts of pairs
    rounds: int = 3  # pairs of each, two samples a pair; some are ties, which are left out
    judged: tuple[int, int] = (96, 160)  # prompts of the validation and of the test split
    pairs: int = 768  # of a training
    hidden: int = 64
    layers: int = 2
    epochs: int = 2  # of the reference's training
    new_tokens: int = 48


SMOKE = Size(texts=64, pool=120, rounds=2, judged=(8, 8), pairs=16, hidden=16, layers=1, epochs=1, new_tokens=12)


@dataclass(frozen=True)
class World:
    """Everything under one folder; what is there is not made again."""

    folder: Path
    size: Size

    def require_own(self) -> None:
        """End the program where the folder is of another size or run file, whose results would be taken for these."""
        made = self.folder / "made_with.txt"
        own = f"{self.size}\n{RUN_FILE.read_text(encoding='utf-8')}"
        if not made.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            made.write_text(own, encoding="utf-8")
        if made.read_text(encoding="utf-8") != own:
            sys.exit(f"{self.folder} was made with other sizes or another run.toml: give a new --folder.")

    @cached_property
    def prompts(self) -> Prompts:
        """Disjoint prompts: of the reference's texts, of the pairs, and of the judged samples."""
        return prompts(TASK_SEED, texts=self.size.texts, pairs=self.size.pool, judged=sum(self.size.judged))

    @cached_property
    def reference(self) -> str:
        """The folder of the reference model, trained on the texts of the task."""
        texts, untrained = self.folder / "texts.jsonl", self.folder / "untrained"
        sft = self._run("sft", texts, str(untrained)).replace(
            {
                "data.format": "completion",
                "train.method": "sft",
                "train.learning_rate": 3e-3,
                "train.epochs": self.size.epochs,
            }
        )
        done = self.folder / "sft/train/sft/model"
        if not done.exists():
            draw = random.Random(TASK_SEED)
            cards = [(prompt.text, _short(card(prompt, draw))) for prompt in self.prompts.texts]
            _write(texts, ({"prompt": prompt, "completion": text} for prompt, text in cards))
            demo_model.write(
                untrained, list(map("".join, cards)), hidden=self.size.hidden, layers=self.size.layers, seed=TASK_SEED
            )
            prepare(sft)
            train(sft)
        return str(done)

    def data(self, seed: int, flips: float, part: str) -> Run:
        """The run of a data set, prepared and scored: a seed's pairs, of which a share `flips` has the wrong label.

        The same draw decides for every share, so that a larger one flips the pairs of a smaller one and more. `part`
        is the half of these pairs whose rewards differ less, or more; or all of them, some of them worthless: `near
        ties` have labels by the toss of a coin, `outliers` a bad card to somebody else as the chosen side.
        """
        name = f"seed{seed}-{part.replace(' ', '-')}-flips{flips:g}"
        return self.scored(name, _labelled(self.pairs(seed, part), flips, random.Random(seed)))

    def scored(self, name: str, rows: Iterable[dict[str, Any]], settings: Mapping[str, Any] | None = None) -> Run:
        """The run of a data set of that name, prepared and scored with further settings; its rows are written once."""
        source = self.folder / f"{name}.jsonl"
        run = self._run(name, source, self.reference).replace(dict(settings or {}))
        if not source.exists():
            _write(source, rows)
        prepare(run)
        score(run)
        return run

    def pairs(self, seed: int, part: str = "all") -> list[dict[str, Any]]:
        """A seed's pairs with true labels and the true rewards as scores: the `part` of them, or as it changes them."""
        size = self.size.pairs
        rows = self.untied[seed * size :][:size]
        if len(rows) < size:
            raise ValueError(f"the pool has no {size} untied pairs for seed {seed}: enlarge `Size.rounds`")
        if part in HALVES:
            ranked = sorted(rows, key=_gap)
            return ranked[: size // 2] if part == "low gap" else ranked[size // 2 :]
        changed = {"all": lambda rows, draw: rows, "near ties": near_ties, "outliers": outliers}[part]
        return changed(rows, random.Random(seed))

    @cached_property
    def untied(self) -> list[dict[str, Any]]:
        """The pairs of the seeds: one of each prompt, then another of each. Seeds share prompts, but no sample."""
        return self._sampled("pool", self.prompts.pairs * self.size.rounds)

    @cached_property
    def held_out(self) -> list[dict[str, Any]]:
        """Two pairs with true labels of each test prompt."""
        return self._sampled("held_out", self.prompts.judged[self.size.judged[0] :] * 2)

    def _sampled(self, name: str, asked: list[Prompt]) -> list[dict[str, Any]]:
        """Two samples of the reference per prompt, the better one as chosen; without ties of their reward."""
        path = self.folder / f"{name}.jsonl"
        if not path.exists():
            texts = samples(loading.load_model(self.reference, dtype="float32", device="cpu"), asked * 2, self)
            first, second = texts[: len(asked)], texts[len(asked) :]
            _write(path, map(_ordered, asked, first, second))
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [row for row in rows if row["chosen_score"] != row["rejected_score"]]

    def _run(self, name: str, source: Path, model: str) -> Run:
        return Run.load(
            str(RUN_FILE),
            {
                "out": str(self.folder / name),
                "data.source": str(source),
                "reference.model": model,
                "score.store": str(self.folder / "store"),
            },
        )


Rows = list[dict[str, Any]]


def near_ties(rows: Rows, draw: random.Random) -> Rows:
    """The pairs, the sides of those exchanged by chance whose rewards differ by at most `NEAR`."""
    return [_exchanged(row) if _gap(row) <= NEAR and draw.random() < 0.5 else row for row in rows]


def outliers(rows: Rows, draw: random.Random) -> Rows:
    """The pairs; in a share `OUTLIERS` of them the chosen side is the rejected one of another prompt."""
    return [{**row, "chosen": draw.choice(rows)["rejected"]} if draw.random() < OUTLIERS else row for row in rows]


def _gap(row: dict[str, Any]) -> float:
    return float(row["chosen_score"] - row["rejected_score"])


def _exchanged(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def samples(model: Any, asked: Sequence[Prompt], world: World) -> list[str]:
    """One text per prompt, at temperature 1, each from noise of its own: the same for every model."""
    tokenizer = tokenizers.load_tokenizer(world.reference)
    rows = sampling.sample(
        model,
        tokenizer,
        [prompt.text for prompt in asked],
        seed=TASK_SEED,
        max_new_tokens=world.size.new_tokens,
        batch=512,
        description="samples",
    )
    return list(tokenizer.batch_decode([row.completions[0] for row in rows], skip_special_tokens=True))


def _short(text: str) -> str:
    heading, greeting, sentences, end = text.split("\n")
    return "\n".join([heading, greeting, "".join(_SENTENCE.findall(sentences)[:SENTENCES]).strip(), end])


def _ordered(prompt: Prompt, first: str, second: str) -> dict[str, Any]:
    better, worse = sorted((first, second), key=lambda text: -reward(prompt, text))
    return {
        "prompt": prompt.text,
        "chosen": better,
        "rejected": worse,
        "chosen_score": reward(prompt, better),
        "rejected_score": reward(prompt, worse),
    }


def _labelled(rows: Iterable[dict[str, Any]], flips: float, draw: random.Random) -> Iterable[dict[str, Any]]:
    """The pairs without their scores; a pair whose draw is below `flips` has its sides exchanged."""
    for row in rows:
        labelled = _exchanged(row) if draw.random() < flips else row
        yield {key: labelled[key] for key in ("prompt", "chosen", "rejected")}


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(path)
