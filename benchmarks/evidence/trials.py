"""One training and what its policy is worth: true reward and KL from samples, on a validation and on a test split.

The training is that of `scoreonce train`, step for step, without what it writes. Results are lines of runs.jsonl; a
trial that has a line is not run again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
import variants  # noqa: F401 - registers pieces
from accelerate import Accelerator
from world import World, samples

from scoreonce import InputError, Run
from scoreonce.pipeline import methods
from scoreonce.pipeline.demo.reward import reward
from scoreonce.pipeline.demo.task import Prompt
from scoreonce.pipeline.forward.architecture import causal_lm
from scoreonce.pipeline.training import sampling
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.data.reference_scores import require_reference
from scoreonce.stages.models import loading, tokenizers
from scoreonce.stages.train.data import load_training_data
from scoreonce.stages.train.trainer import Trainer

SPLITS = ("validation", "test")
REFERENCE = "reference"  # the key of its own rewards


class Trial(NamedTuple):
    """A training: settings of [train] on the data of a seed. The seed also orders the pairs."""

    settings: tuple[tuple[str, Any], ...]
    flips: float
    part: str
    seed: int

    @property
    def key(self) -> str:
        """What results are kept under."""
        return json.dumps([dict(self.settings), self.flips, self.part, self.seed], sort_keys=True)


@dataclass(frozen=True)
class Trials:
    """The trials that are done in a world, and a way to do more."""

    world: World

    @cached_property
    def done(self) -> dict[str, dict[str, Any]]:
        """Results by key."""
        path = self._path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return {row["key"]: row for row in map(json.loads, lines)}

    @property
    def _path(self) -> Any:
        return self.world.folder / "runs.jsonl"

    def result(self, trial: Trial) -> dict[str, Any]:
        """What the trial gave; done now if it is not."""
        return self.kept(trial.key, lambda: self._run(trial))

    def kept(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is kept under the key; made now, with its CPU time, if it is not there."""
        if key not in self.done:
            began = time.process_time()
            self._keep({"key": key, **make(), "cpu_seconds": time.process_time() - began})
        return self.done[key]

    def _keep(self, row: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        self.done[row["key"]] = row

    def reference(self) -> dict[str, float]:
        """The reference's own rewards, judged as those of policies are."""
        if REFERENCE not in self.done:
            self._keep({"key": REFERENCE, **judged(reference_model(self.world.reference), self.world)})
        return self.done[REFERENCE]

    def _run(self, trial: Trial) -> dict[str, Any]:
        run = _data(self.world, trial.seed, trial.flips, trial.part)
        settings = {f"train.{key}": value for key, value in trial.settings}
        try:
            policy, metrics = trained(run.replace({**settings, "train.seed": trial.seed}))
        except InputError as error:
            # A policy that cannot be used earns nothing, and has no KL.
            return {"failure": f"{error.what} {error.found}", "validation_reward": 0.0, "test_reward": 0.0}
        return {"failure": "", **metrics, **judged(policy, self.world)}


@lru_cache
def _data(world: World, seed: int, flips: float, part: str) -> Run:
    return world.data(seed, flips, part)


def trained(run: Run) -> tuple[Any, dict[str, float]]:
    """The policy that `scoreonce train` makes of this run, and the metrics of its last step."""
    settings = run.train
    method = methods.resolve(settings.method, settings.hyperparameters, **settings.pieces)
    data = load_training_data(
        RunPaths.of(run), method.reads, settings.where, settings.drop, takes_unpaired=method.takes_unpaired
    )
    trainer = Trainer.build(run, method, data, Accelerator(cpu=True), require_reference(run))
    state, metrics = method.init_state(), {}
    for step in range(1, trainer.steps + 1):
        epoch, pairs = sampling.batch(
            len(data), step, settings.batch_pairs, shuffle=settings.shuffle, seed=settings.seed
        )
        state, metrics, _ = trainer.take(step, epoch, pairs, state)
    return causal_lm(trainer.training.model.model).eval(), {"loss": float(metrics["loss"])}


def judged(policy: Any, world: World) -> dict[str, float]:
    """By split: mean true reward, its standard error, KL(policy || reference) in nats, tokens, share of texts that end.

    The KL of a sample is summed over its positions, each exact over the vocabulary.
    """
    asked = world.prompts.judged
    texts, sizes = samples(policy, asked, world), world.size.judged
    rewards = torch.tensor([reward(prompt, text) for prompt, text in zip(asked, texts, strict=True)]).double()
    kl, tokens = divergences(policy, reference_model(world.reference), asked, texts, world)
    rows: dict[str, float] = {"distinct": len(set(texts)) / len(texts)}
    for split, own, apart, length in zip(SPLITS, *(x.split(sizes) for x in (rewards, kl, tokens)), strict=True):
        found: Mapping[str, float] = {
            "reward": float(own.mean()),
            "reward_error": float(own.std() / len(own) ** 0.5),
            "kl": float(apart.mean()),
            "tokens": float(length.mean()),
        }
        rows |= {f"{split}_{name}": value for name, value in found.items()}
    return rows


@lru_cache(maxsize=1)
def reference_model(folder: str) -> Any:
    """The reference, read once."""
    return loading.load_model(folder, dtype="float32", device="cpu").eval()


@torch.inference_mode()
def divergences(
    policy: Any, reference: Any, asked: list[Prompt], texts: list[str], world: World
) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(policy || reference) summed over each text's positions, end token included, in nats, and its tokens."""
    ids, mine = tokens_of([prompt.text for prompt in asked], texts, world)
    own, other = (model(ids).logits[:, :-1].log_softmax(-1) for model in (policy, reference))
    return ((own.exp() * (own - other)).sum(-1) * mine).sum(-1).double(), mine.sum(-1).double()


def tokens_of(prompts: Sequence[str], texts: Sequence[str], world: World) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of prompt, text and end token, padded (texts, width), and the places whose next token belongs to the
    text, end token included (texts, width - 1).
    """
    tokenizer = tokenizers.load_tokenizer(world.reference)
    starts = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    rows = [
        start + tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        for start, text in zip(starts, texts, strict=True)
    ]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    places = torch.arange(width - 1)
    first, last = torch.tensor([len(start) - 1 for start in starts]), torch.tensor([len(row) - 1 for row in rows])
    return ids, (places >= first[:, None]) & (places < last[:, None])
