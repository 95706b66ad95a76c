"""The lines of a first run file: what was found of model, data and method, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from scoreonce.pipeline.methods.chain import Method
from scoreonce.pipeline.methods.compose import hyperparameters
from scoreonce.schemas.columns import COLUMNS
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Run, Train
from scoreonce.stages.init.advice import Advice
from scoreonce.stages.init.look import DataLook, ModelLook
from scoreonce.stages.run_text import Line

COVERED = 0.995  # share of the sampled pairs that max_length leaves whole
MULTIPLE = 64  # max_length is rounded up to it
GPU_BUDGET = 16_384  # tokens of a forward pass, the default on a GPU
ROWS_UNKNOWN = "how many rows it has is not known without reading them all"
SPLIT_NOTE = "share of prompts held out, as no held-out data are named: else data.test_split or data.test_source"


def draft(
    run: Run, model: ModelLook, data: DataLook, advised: Mapping[str, tuple[Method, Advice]], given: Mapping[str, Any]
) -> list[Line]:
    """The lines. `advised`: methods by name, the run's own first; several are to be compared.

    `given`: keys that were set by hand, which stand as they are. Raises `InputError` where the data are not what a
    method trains on.
    """
    composed = [method for method, _ in advised.values()]
    for each in composed:
        _require_suited(data, each)
    method, advice = next(iter(advised.values()))
    found = [
        Line("out", run.out, "folder for everything that this run writes"),
        *_data(run, model, data, given),
        *_reference(run, model),
        Line("compute.tokens_per_microbatch", GPU_BUDGET, _budget(), off=True),
        *(line for each in composed for line in _score(each)),
        *_train(run, method, advice, data, given),
        *(_compare(advised) if len(advised) > 1 else ()),
    ]
    lines = {line.key: line for line in found}
    by_hand = {key: value for key, value in given.items() if _is_key(key)}
    lines |= {key: Line(key, value, "given with --set") for key, value in by_hand.items()}
    return list(lines.values())


def _is_key(key: str) -> bool:
    """Whether it is a key of its own: hyperparameters have their lines already, under the names used here."""
    section, _, name = key.partition(".")
    return section != "train" or name in Train.model_fields


def _data(run: Run, model: ModelLook, data: DataLook, given: Mapping[str, Any]) -> Iterator[Line]:
    yield Line("data.source", run.data.source, f"{data.rows:,} rows" if data.rows else ROWS_UNKNOWN)
    yield Line("data.format", run.data.format, f"found: {data.format} ({data.meaning}), from columns {data.columns}")
    if not {"data.test_source", "data.test_split"} & set(given):
        yield Line("data.test_share", run.data.test_share, SPLIT_NOTE)
    yield Line("data.chat_template", "chat.jinja", _template(model, data), off=True)
    yield Line("data.max_length", *max_length(model, data))


def _template(model: ModelLook, data: DataLook) -> str:
    if data.rendered:
        return "the data are messages, written by the tokenizer's own template; a file here would replace it"
    if model.has_template:
        return (
            "not used: the data are plain text, though the tokenizer has a template. If the prompts are a user's "
            "turns, make them messages (docs/chat.md)"
        )
    return "not needed: the data are plain text, and the tokenizer has no template"


def max_length(model: ModelLook, data: DataLook) -> tuple[int, str]:
    """A length that leaves nearly all pairs whole, at most the positions of the model; and why."""
    wanted = MULTIPLE * math.ceil(max(data.covering(COVERED), 2) / MULTIPLE)
    length = min(wanted, model.positions or wanted)
    whole, longest = 100 * data.covered(length), data.lengths[-1]
    limit = "" if model.positions is None else f"; the model states {model.positions:,} positions"
    cut = "" if length == wanted else ", which cuts the others"
    return length, (
        f"leaves {whole:.1f} % of {data.pairs:,} pairs of the first {data.read:,} rows whole{cut}; the longest has "
        f"{longest:,} tokens{limit}"
    )


def _reference(run: Run, model: ModelLook) -> Iterator[Line]:
    yield Line("reference.model", run.reference.model, f"{model.architecture}, {model.parameters:,} parameters")
    whys = {
        "bfloat16": ("bfloat16", "as its weights are stored; the policy's are kept in float32 beside it"),
        "float32": ("float32", "as its weights are stored; bfloat16 takes half the memory"),
    }
    other = ("float32", f"its weights are stored in {model.stored or 'a dtype that its config does not state'}")
    yield Line("reference.dtype", *whys.get(model.stored or "", other))


def _budget() -> str:
    return "tokens of a forward pass: the default on a GPU, 1,024 on a CPU; `scoreonce estimate` says what fits a GPU"


def _score(method: Method) -> Iterator[Line]:
    needs = {COLUMNS[name].needs for name in method.reads}
    if needs & {"distributions", "hidden states"}:
        yield Line("score.full_vocab", "hidden", f"{method.name} reads the reference's next-token distributions")
    if "mismatched completion" in needs:
        yield Line("score.mismatched", True, f"{method.name} compares with a completion of another prompt")


def _train(run: Run, method: Method, advice: Advice, data: DataLook, given: Mapping[str, Any]) -> Iterator[Line]:
    yield Line("train.method", run.train.method, f"{method.title}: `scoreonce methods {run.train.method}`")
    yield Line("train.learning_rate", advice.learning_rate, advice.why)
    stated = hyperparameters(method)
    for name, value in method.hyperparameters.items():
        meaning = stated[name][0].allowed.meaning
        by_hand = f"train.{name}" in given
        value = value if by_hand or name not in advice.settings else advice.settings[name]
        source = "given with --set" if by_hand else advice.settings_why if name in advice.settings else "its default"
        yield Line(f"train.{name}", value, f"{meaning}; {source}")
    batch = run.train.batch_pairs
    yield Line("train.batch_pairs", batch, f"pairs per optimizer step, the default here{_steps(data, batch)}")
    yield Line("train.epochs", 1, "passes over the pairs; most published runs take one")


def _compare(advised: Mapping[str, tuple[Method, Advice]]) -> Iterator[Line]:
    """Methods, seeds, and for each method learning rates about that of its recipe, and the recipe's other settings."""
    yield Line("compare.methods", list(advised), "in place of train.method")
    yield Line("compare.seeds", 3, "trainings of each candidate: how much another seed changes is in the intervals")
    for number, (name, (method, advice)) in enumerate(advised.items()):
        rates, why = advice.tried()
        yield Line(f"compare.vary.{name}.train.learning_rate", rates, f"{why}: {advice.why}")
        for key, value in advice.settings.items():
            if number and method.hyperparameters.get(key) != value:  # those of the first are in [train]
                yield Line(f"compare.vary.{name}.train.{key}", [value], advice.settings_why)


def _steps(data: DataLook, batch: int) -> str:
    """How many steps an epoch has, from the share of the sampled rows that can be used."""
    if not data.rows:
        return ""
    pairs = data.rows * data.pairs / data.read
    return f": about {math.ceil(pairs / batch):,} steps an epoch of all {pairs:,.0f} pairs"


def _require_suited(data: DataLook, method: Method) -> None:
    """Raise `InputError` where the method reads what the data do not have."""
    compares = any("rejected" in name for name in method.reads)
    if not data.paired and compares and not method.takes_unpaired:
        raise InputError(
            f"{method.name} trains on pairs, and the data have none.",
            found=f"format {data.format}: {data.meaning}",
            where=data.name,
            fix="Give --method kto or bco for completions that are labelled good or bad, --method sft for completions "
            "alone, or data of pairs: see docs/formats.md.",
        )
    for column, there, key in (
        ("chosen_score", data.scored, "chosen_score and rejected_score"),
        ("chosen_preference", data.preferred, "chosen_preference and rejected_preference, or preference_from_scores"),
    ):
        if column in method.reads and not there:
            raise InputError(
                f"{method.name} reads {column}, which not every pair of the data has.",
                found=f"format {data.format}, from columns {data.columns}",
                where=data.name,
                fix=f"Name the columns under data.columns ({key}), with --set, or give another --method.",
            )
