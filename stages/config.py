"""The run file: one TOML per run, checked whole before anything is read or written.

`load("configs/x.toml", ["train.beta=0.05"])` gives a `Run`; a misspelt key, a value out of range or a
hyperparameter that the method does not have is an `InputError`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from scoreonce.schemas.errors import InputError, did_you_mean

Dtype = Literal["float32", "bfloat16", "float16"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Section):
    """What to train on, and how it becomes tokens."""

    source: str = Field(
        description="dataset name on the Hub, or a local .jsonl[.gz], .json, .parquet, .arrow file or folder of such"
    )
    subset: str | None = Field(None, description="configuration name of a Hub dataset")
    split: str = Field("train", description="split to read")
    test_source: str | None = Field(
        None, description="held-out pairs from elsewhere; otherwise test_share is split off"
    )
    test_split: str | None = Field(None, description="held-out pairs from this split of the same dataset")
    test_share: float = Field(0.1, ge=0, lt=1, description="share of prompts held out")
    format: Literal["auto", "pairs", "implicit", "messages", "labelled", "graded", "completion"] = Field(
        "auto", description="how a row states a preference"
    )
    columns: dict[str, str] = Field({}, description="our name = the dataset's name, e.g. prompt = 'question'")
    pairing: Literal["best_worst", "all_pairs", "random", "rso", "best_of_n"] = Field(
        "best_worst", description="how a graded list becomes pairs; never two equal scores"
    )
    min_gap: float = Field(0.0, ge=0, description="least score gap of a pair made of a graded list")
    pairs_per_prompt: int = Field(1, ge=1, description='pairs that pairing = "random" draws from a list')
    rso_samples: int = Field(8, ge=2, description='completions that pairing = "rso" accepts of a list')
    rso_beta: float = Field(0.5, gt=0, description="rso: a high one samples at random, a low one the best")
    rso_ranking: Literal["first_round", "tournament"] = Field(
        "first_round", description="rso: n / 2 pairs of the accepted, or up to n - 1"
    )
    preference_from_scores: float | None = Field(
        None, gt=0, description="make preference probabilities (sppo) of scores: sigmoid of this times a score gap"
    )
    tokenizer: str | None = Field(None, description="defaults to the reference model's")
    max_length: int = Field(1024, ge=2, description="prompt and completion together, in tokens")
    max_prompt_length: int | None = Field(None, ge=1, description="longer prompts lose their start")
    truncation: Literal["completion", "drop"] = Field(
        "completion", description="what to do with a pair over max_length"
    )
    limit: int | None = Field(None, ge=1, description="use only the first rows")
    seed: int = Field(0, ge=0, description="decides which prompts are held out, and which pairs are drawn")
    workers: int | None = Field(None, ge=1, description="tokenisation threads; defaults to the cores")


class Reference(_Section):
    """Which model the pairs are scored under, once."""

    model: str = Field(description="folder or Hub name")
    revision: str | None = None
    adapter: str | None = Field(None, description="PEFT adapter on the reference, folder or Hub name")
    dtype: Dtype = "float32"


class Compute(_Section):
    """Where to run. Never part of a result's identity."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    tokens_per_microbatch: int | None = Field(
        None, ge=1, description="token budget of a forward pass; defaults to 1,024 on a CPU, 16,384 on a GPU"
    )
    attention: Literal["auto", "shared", "packed", "padded", "flex", "flash"] = Field(
        "auto",
        description="a prompt row per line, several in one, plain padding, or on a GPU several by block masks or flash "
        "attention; auto: what is exact, and of these two what is faster",
    )
    compile: bool = Field(False, description="with block masks, compile the model's blocks too: a slower start")

    def budget(self, device_type: str) -> int:
        """Tokens of a forward pass on "cpu" or "cuda".

        A CPU wants micro-batches that stay near its caches: for a 2.8M model a step cost 6.5 s of one core at 16,384
        tokens, 3.0 s at 4,096 and 2.4 s at 1,024.
        """
        return self.tokens_per_microbatch or (16_384 if device_type == "cuda" else 1_024)


class Audit(_Section):
    """What `audit` looks for, and from which values on. Changes no pair and no score."""

    near_duplicates: bool = Field(True, description="compare prompts and completions by their words")
    similarity: float = Field(0.8, gt=0, le=1, description="Jaccard index of 3-word shingles that is nearly the same")
    contamination: list[str] = Field([], description="files of evaluation prompts that no pair should overlap")
    ngram: int = Field(8, ge=2, le=64, description="words in a row that count as overlap")
    crowded_prompt: int = Field(8, ge=1, description="more pairs than this of one prompt are reported")
    repetition: float = Field(0.5, gt=0, le=1, description="share of repeated 4-grams of tokens that is a loop")
    votes: str | None = Field(None, description="raw column with each judge's vote: a list, or an object by judge")
    vote_first: float = Field(0.0, description="the vote that the first response (or chosen) is better")
    vote_second: float = Field(1.0, description="the vote that the second (or rejected) is; half-way and beyond: tie")
    methods: list[str] = Field([], description="methods whose down-weighting to work out, after scoring")


class Score(_Section):
    """Stage one."""

    store: str | None = Field(None, description="folder of the reference store; defaults to <out>/store")
    full_vocab: Literal["none", "hidden", "topk"] = Field(
        "none",
        description="for methods of the whole vocabulary keep hidden states too (exact) or the largest log-probs",
    )
    topk: int = Field(128, ge=1, description="log-probs a token that the form topk keeps, at 6 bytes each")
    embeddings: bool = Field(
        False, description="make embedding similarity (REAL) and CHES score of each pair; 4 bytes x width a completion"
    )
    mismatched: bool = Field(False, description="score another prompt's completion behind each prompt too, for kto")
    shard_completions: int = Field(2048, ge=1, description="completions written per shard, the unit of resuming")

    @property
    def form(self) -> str | None:
        """Name of the form in which whole distributions are kept, None where they are not."""
        return {"none": None, "hidden": "hidden", "topk": f"topk-{self.topk}"}[self.full_vocab]


class Train(BaseModel):
    """Stage two. Keys that are not listed here are the method's hyperparameters, e.g. beta = 0.1."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str = "dpo"
    method_file: str | None = Field(None, description="a Python file that registers a method; its code is run")
    objective: str | dict[str, float] | None = None
    calibration: str | None = None
    selection: str | None = None
    drop: list[str] = Field([], description="leave out the pairs that these findings of `scoreonce audit` concern")
    where: str | None = Field(None, description="train only on pairs for which this SQL expression holds")
    label: str | None = Field(None, description="folder name of this run's outputs; defaults to the method")
    model: str | None = Field(None, description="policy to start from; defaults to the reference")
    dtype: Dtype | None = Field(None, description="defaults to the reference's")
    optimizer: str = Field("adamw_torch", description="a name that transformers' `optim` takes")
    learning_rate: float = Field(1e-6, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    scheduler: str = Field("linear", description="a name that transformers' `lr_scheduler_type` takes")
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    max_grad_norm: float = Field(1.0, ge=0, description="0 switches clipping off")
    epochs: float = Field(1, gt=0)
    max_steps: int | None = Field(None, ge=1, description="overrides epochs")
    batch_pairs: int = Field(64, ge=1, description="pairs per optimizer step, over all processes and micro-batches")
    scope: Literal["step", "microbatch"] = Field(
        "step", description="what batch statistics cover: the optimizer step, or parts of it as in the papers' code"
    )
    microbatch_pairs: int = Field(8, ge=1, description="pairs of such a part, over all processes")
    shuffle: bool = True
    seed: int = Field(0, ge=0)
    gradient_checkpointing: bool = False
    lora_rank: int | None = Field(None, ge=1, description="train LoRA matrices of this rank instead of all weights")
    lora_alpha: float | None = Field(None, gt=0, description="their scale; defaults to twice the rank")
    lora_targets: list[str] = Field(["all-linear"], description="modules that get them, by name")
    checkpoint_every: int | None = Field(
        None, ge=1, description="steps between checkpoints; the last step always has one"
    )
    keep_checkpoints: int = Field(2, ge=1)
    full_vocab: Literal["hidden", "topk", "live"] = Field(
        "hidden", description="where such methods get the reference from: what `score` kept, or the model itself"
    )
    verify_pairs: int = Field(32, ge=0, description="cached pairs to score again before the first step")
    log_with: list[str] = Field([], description="accelerate trackers, e.g. tensorboard, wandb")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The method's own settings."""
        return dict(self.model_extra or {})


class Evaluate(_Section):
    """Scoring of held-out pairs."""

    model: str | None = Field(None, description="policy to evaluate; defaults to what `train` wrote")
    label: str | None = Field(None, description="folder name of the results; defaults to the training label")


class Run(_Section):
    """A run file."""

    out: str = Field(description="folder of everything this run writes")
    data: Data
    reference: Reference
    compute: Compute = Compute()
    audit: Audit = Audit()
    score: Score = Score()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @classmethod
    def load(cls, path: str | Path, settings: Mapping[str, Any] | None = None) -> Run:
        """Read a run file; `settings` such as `{"train.beta": 0.05}` override its keys.

        Raises `InputError` for a missing file, bad TOML, unknown keys and values out of range.
        """
        return load(path).replace(settings or {})

    def replace(self, settings: Mapping[str, Any]) -> Run:
        """The same run with some keys changed, e.g. `run.replace({"train.beta": 0.05, "train.label": "gentle"})`.

        Raises `InputError` for an unknown key or a value out of range.
        """
        tree = self.model_dump(exclude_unset=True)
        for key, value in settings.items():
            *sections, last = key.split(".")
            section = tree
            for name in sections:
                section = section.setdefault(name, {})
            section[last] = value
        try:
            return type(self).model_validate(tree)
        except pydantic.ValidationError as error:
            raise _explain(error, "the settings given") from None


def load(path: str | Path, overrides: list[str] | None = None) -> Run:
    """Read a run file, with `section.key=value` overrides on top.

    Relative paths inside it stay relative to the working directory, as on any command line.
    Raises `InputError` for a missing file, bad TOML, unknown keys and values out of range.
    """
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        nearby = sorted(str(p) for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        raise InputError(
            "The run file does not exist.",
            found=f"no file {path}",
            where="RUN / the command's argument",
            fix=f"Give one of: {', '.join(nearby)}." if nearby else "Copy one from configs/.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            "The run file is not valid TOML.",
            found=str(error),
            where=str(path),
            fix="Correct the line named above; strings need quotes, numbers none.",
        ) from None
    for override in overrides or []:
        _override(tree, override)
    try:
        return Run.model_validate(tree)
    except pydantic.ValidationError as error:
        raise _explain(error, str(path)) from None


def _override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise InputError(
            "An override is not of the form section.key=value.",
            found=override,
            where="--set",
            fix="Write it as --set train.beta=0.05.",
        )
    *sections, last = key.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise InputError(
                "An override goes through a value, not a section.",
                found=override,
                where="--set",
                fix="Write it as --set section.key=value.",
            )
    try:
        tree[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        tree[last] = text  # an unquoted string, as shells leave it


def _explain(error: pydantic.ValidationError, where: str) -> InputError:
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section: type[BaseModel] = Run
        for part in first["loc"][:-1]:
            annotation = section.model_fields[str(part)].annotation
            assert isinstance(annotation, type)
            section = annotation
        known = list(section.model_fields)
        return InputError(
            f"The run file has a key that nothing reads: {location}.",
            found=f"{location} = {first['input']!r}.{did_you_mean(str(first['loc'][-1]), known)}",
            where=where,
            fix=f"Known here: {', '.join(known)}.",
        )
    found = "nothing" if first["type"] == "missing" else repr(first["input"])
    return InputError(
        f"The run file's {location} cannot be used: {first['msg']}.",
        found=found,
        where=f"{where}, or --set",
        fix="Give a value of the kind named above.",
    )
