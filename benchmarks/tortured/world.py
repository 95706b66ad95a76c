"""A small finished run with every kind of file, and an unfinished one beside it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from scoreonce.pipeline.demo.task import card, prompts
from scoreonce.schemas.errors import InputError
from scoreonce.stages.audit.stage import audit
from scoreonce.stages.common.files import write_json
from scoreonce.stages.compare.stage import compare
from scoreonce.stages.config import Run
from scoreonce.stages.demo import model as demo_model
from scoreonce.stages.evaluate.stage import evaluate
from scoreonce.stages.exchange.export import export_reference
from scoreonce.stages.judge.stage import judge
from scoreonce.stages.pairs.stage import pairs
from scoreonce.stages.prepare.stage import prepare
from scoreonce.stages.report.stage import report
from scoreonce.stages.sample.stage import sample
from scoreonce.stages.score.stage import score
from scoreonce.stages.train import stage as training
from scoreonce.stages.train.merge import merge

PAIRS = 32
STEPS = 4  # a checkpoint after every second
STOPPED = 3  # the unfinished run ends in this step
SAMPLED = ("reference", "dpo")
JUDGED = {"label": "dpo", "against": "reference"}
JUDGEMENT = "dpo-against-reference"


def run_file(**settings: object) -> Run:
    """The run; its paths are relative, so that a copy of the folder is the same run."""
    tree: dict[str, dict[str, object]] = {
        "data": {"source": "pairs.jsonl", "test_share": 0.25, "max_length": 128, "workers": 1},
        "reference": {"model": "model"},
        "compute": {"device": "cpu", "tokens_per_microbatch": 512},
        "score": {"full_vocab": "hidden", "embeddings": True, "shard_completions": 24},
        "train": {
            "method": "dpo",
            "label": "dpo",
            "learning_rate": 1e-3,
            "batch_pairs": 4,
            "max_steps": STEPS,
            "checkpoint_every": 2,
            "verify_pairs": 2,
        },
        "evaluate": {"every": 2, "pairs": 4},
        "sample": {"limit": 3, "n": 2, "max_new_tokens": 32},
        "judge": {"reward_model": "reward"},
        "pairs": {"finished_only": False},
    }
    for key, value in settings.items():
        section, _, name = key.partition("__")
        if name:
            tree[section][name] = value
        else:
            tree[section] = value
    return Run.model_validate({"out": "out", **tree})


def lora_run() -> Run:
    """A training of LoRA matrices."""
    return run_file(train__label="lora", train__lora_rank=2)


def compared_run() -> Run:
    """A comparison of two methods, with an `out` of its own."""
    train = {"batch_pairs": 4, "max_steps": 2, "verify_pairs": 2, "learning_rate": 1e-3}
    run = run_file(compare={"methods": ["dpo", "ipo"]}, train=train)
    return run.replace({"out": "compared", "score.store": "out/store", "evaluate.every": None})


def make(folder: Path) -> None:
    """Write the run into an empty folder. Every stage of it has ended well, but for the training labelled `half`."""
    folder.mkdir(parents=True)
    with working_in(folder):
        write_inputs()
        run = run_file()
        prepare(run)
        score(run_file(score__full_vocab="topk", score__topk=8))
        score(run)
        training.train(run)
        _train_half()
        evaluate(run)
        training.train(lora_run())
        merge(lora_run())
        sample(run, labels=SAMPLED)
        judge(run, **JUDGED)
        pairs(run, [JUDGEMENT])
        export_reference(run, "trl")
        compare(compared_run())
        write_demo()
        audit(run)
        report(run)


def write_demo() -> None:
    """What `scoreonce demo judge` writes, in short."""
    entry = {"true_reward_mean": 1.5, "true_reward_low": 1.0, "true_reward_high": 2.0, "kl_mean": 0.5}
    samples = [{"prompt": "p", "text": "t", "reward": 1.0}]
    write_json(Path("out/demo.json"), {"policies": [{"label": "dpo", **entry, "samples": samples}]})


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The working directory for a while, and a memory of digests of its own."""
    before, cache = Path.cwd(), os.environ.get("SCOREONCE_CACHE")
    os.chdir(folder)
    os.environ["SCOREONCE_CACHE"] = str(folder / "cache")
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop("SCOREONCE_CACHE")
        if cache is not None:
            os.environ["SCOREONCE_CACHE"] = cache


def write_inputs(pairs: int = PAIRS) -> None:
    """Write the raw pairs, with one more for the quarantine, the model, and a reward model."""
    import json
    import random

    drawn, draw = prompts(0, texts=pairs, pairs=pairs, judged=1).pairs, random.Random(0)
    rows = [{"prompt": each.text, "chosen": card(each, draw), "rejected": card(each, draw)} for each in drawn]
    rows.append({"prompt": "p", "chosen": "the same", "rejected": "the same"})
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    demo_model.write(Path("model"), [row["prompt"] + row["chosen"] for row in rows], hidden=16, layers=1, seed=0)
    _write_reward_model(Path("reward"), Path("model"))


def _write_reward_model(folder: Path, model: Path) -> None:
    """An untrained one of the model's shape, with its tokenizer."""
    config = LlamaConfig.from_pretrained(model, num_labels=1, pad_token_id=1)
    torch.manual_seed(1)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    for file in model.glob("tokenizer*"):
        shutil.copy(file, folder)


class _StoppedError(Exception):
    """Ends the unfinished run."""


def _train_half() -> None:
    honest = training.Trainer.take

    def take(self: training.Trainer, step: int, *rest: object) -> object:
        if step == STOPPED:
            raise _StoppedError
        return honest(self, step, *rest)  # type: ignore[arg-type]

    training.Trainer.take = take  # type: ignore[method-assign, assignment]
    try:
        with contextlib.suppress(_StoppedError, InputError):
            training.train(run_file(train__label="half"))
    finally:
        training.Trainer.take = honest  # type: ignore[method-assign]
