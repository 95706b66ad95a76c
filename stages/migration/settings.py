"""Lines of a run file that a configuration of any of the other tools gives."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from scoreonce.schemas.errors import InputError
from scoreonce.stages.migration.mapped import OFF, Given, Verdict
from scoreonce.stages.run_text import Line, toml

Reasons = dict[str, tuple[Verdict, str]]
# Keys of transformers' TrainingArguments that every tool has: ours, and what kind of value they take.
COPIED: dict[str, tuple[str, Any]] = {
    "weight_decay": ("train.weight_decay", 0.0),
    "adam_beta1": ("train.adam_beta1", 0.9),
    "adam_beta2": ("train.adam_beta2", 0.999),
    "adam_epsilon": ("train.adam_epsilon", 1e-8),
    "max_grad_norm": ("train.max_grad_norm", 1.0),
    "save_total_limit": ("train.keep_checkpoints", 1),
}
# How they evaluate while they train: what becomes of it here.
WHILE_TRAINING = {
    "eval_strategy": ("evaluate.every", "by steps, where held-out pairs are named"),
    "eval_steps": ("evaluate.every", "whole steps, where held-out pairs are named"),
    "load_best_model_at_end": ("evaluate.policy", '"best", where evaluate.every is set'),
    "metric_for_best_model": ("evaluate.metric", "loss, rewards/accuracies and rewards/margins"),
}
METRICS = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}


def told(given: Given, name: str) -> str:
    """Where a value comes from: the file's key, or the tool's default."""
    return f"from {name}" if given.has(name) else f"{given.tool}'s default of {name}, which is not set"


def entry(names: str, inner: Mapping[str, Any], used: Collection[str]) -> str:
    """Where a value comes from that is inside a key's value, and what else there is inside that is not mapped."""
    rest = [name for name in inner if name not in used and inner[name] is not None]
    return f"from the entry of {names}" + (f"; of that not mapped: {', '.join(rest)}" if rest else "")


def copied(given: Given, name: str, key: str, value: Any, note: str = "") -> Line:
    """A line with the value of one key, or the tool's default."""
    return Line(key, value, f"{told(given, name)}{note and f': {note}'}", (name,) if name in given.values else ())


def where_from(given: Given, flag: str, value: str | None, name: str, key: str, wanted: str) -> Line:
    """The line of the model or the data: as given on the command line, otherwise as the file has it.

    Raises `InputError` where neither says it.
    """
    if value is not None:
        return Line(key, value, f"given with {flag}", (name,) if name in given.values else ())
    if not given.has(name):
        raise InputError(
            f"The {given.tool} configuration names no {wanted}.",
            found=f"no {name}",
            where=given.where,
            fix=f"Give it with {flag}.",
        )
    return copied(given, name, key, given.text(name, ""))


def batch(given: Given, per_device: tuple[str, int], accumulation: tuple[str, int], processes: int) -> Line:
    """The pairs of a step: those of a device, times accumulated micro-batches, times processes."""
    (device_name, device_default), (steps_name, steps_default) = per_device, accumulation
    device, steps = given.whole(device_name, device_default), given.whole(steps_name, steps_default)
    many = "process" if processes == 1 else "processes"
    return Line(
        "train.batch_pairs",
        device * steps * processes,
        f"{device} ({device_name}) x {steps} ({steps_name}) x {processes} {many}"
        + ("; with more, give --processes" if processes == 1 else ""),
        tuple(name for name in (device_name, steps_name) if name in given.values),
    )


def warmup(given: Given, pairs: int, steps: int | None, *, ratio_name: str, default: str = "0") -> tuple[Line, Reasons]:
    """The share of the steps that warms up. `steps`: of the whole run, where the file says how many.

    A number of steps (warmup_steps from 1 on) is a share of `steps` where that is known; otherwise the pairs decide,
    and the reason says how to work it out.
    """
    key = "train.warmup_ratio"
    asked = given.number("warmup_steps", 0.0)
    if asked >= 1 and steps:
        return Line(key, _share(int(asked), steps), f"{asked:g} (warmup_steps) of {steps} steps", ("warmup_steps",)), {}
    if asked >= 1:
        why = (
            f"a run file has a share: set train.warmup_ratio to {asked:g} * {pairs} / (pairs * epochs); until then it "
            "is 0.1"
        )
        return Line(key, 0.1, f"the run file's default: {asked:g} * {pairs} / (pairs * epochs) is the share there"), {
            "warmup_steps": ("not supported", why)
        }
    if asked > 0 or not given.has(ratio_name):
        name = "warmup_steps" if given.has("warmup_steps") else ratio_name
        value = asked if given.has("warmup_steps") else float(default)
        return copied(given, name, key, float(value)), {}
    return copied(given, ratio_name, key, given.number(ratio_name, 0.0)), {}


def length(given: Given, epochs: str, default: float) -> tuple[Line, int | None, Reasons]:
    """How long is trained: the line, the steps of the whole run where the file says how many, and a reason then."""
    steps = given.whole("max_steps", -1)
    if steps > 0:
        return (
            copied(given, "max_steps", "train.max_steps", steps),
            steps,
            {epochs: ("not needed", "max_steps decides")},
        )
    return copied(given, epochs, "train.epochs", given.number(epochs, default)), None, {}


def while_training(given: Given, data: Iterable[Line]) -> tuple[list[Line], Reasons]:
    """Held-out figures while training, early stopping and the best weights, as transformers' trainer has them.

    They need held-out pairs, which the lines of the `data` name, and a number of steps; otherwise the reason says what
    to set.
    """
    asked = {name: given.values[name] for name in (*WHILE_TRAINING, *_MORE) if given.values.get(name) not in OFF}
    held_out = any(line.key.startswith("data.test_") and line.value for line in data)
    steps, evaluations = given.number("eval_steps", 0.0), given.number("evals_per_epoch", 0.0)
    every: Line | None = None
    if held_out and steps >= 1 and steps == int(steps):
        every = copied(given, "eval_steps", "evaluate.every", int(steps))
    elif held_out and evaluations > 1:
        every = copied(given, "evals_per_epoch", "evaluate.every", float(f"{1 / evaluations:.4g}"), "1 divided by it")
    if every is None:
        why = (
            "held-out figures while training are evaluate.every (steps, or below 1 a share of an epoch), with held-out "
            "pairs; evaluate.patience and evaluate.policy go by them"
        )
        return [], dict.fromkeys(asked, ("not supported", why))
    lines = [replace(every, sources=(*every.sources, *(name for name in _STRATEGIES if name in asked)))]
    reasons: Reasons = {}
    if "early_stopping_patience" in asked:
        patience = given.whole("early_stopping_patience", 1)
        lines.append(copied(given, "early_stopping_patience", "evaluate.patience", patience))
    if given.flag("load_best_model_at_end", False):
        lines.append(copied(given, "load_best_model_at_end", "evaluate.policy", "best"))
    if "metric_for_best_model" in asked:
        metric = given.text("metric_for_best_model", "loss").removeprefix("eval_")
        if metric in METRICS:
            lines.append(copied(given, "metric_for_best_model", "evaluate.metric", METRICS[metric]))
        else:
            reasons["metric_for_best_model"] = ("not supported", f"evaluate.metric is {' or '.join(METRICS.values())}")
    return lines, reasons


_STRATEGIES = ("eval_strategy", "evaluation_strategy")
_MORE = ("evaluation_strategy", "evals_per_epoch", "early_stopping_patience")


def _share(warm: int, steps: int) -> float:
    """The share whose number of steps, rounded up as `train` does, is `warm`."""
    share = min(warm / steps, 1.0)
    return share if math.ceil(steps * share) == min(warm, steps) else (warm - 0.5) / steps


def trackers(given: Given, names: Sequence[str], sources: Sequence[str]) -> list[Line]:
    """The line of the trackers to log with; none where there are none."""
    wanted = [name for name in names if name not in ("none", "all", "")]
    return [Line("train.log_with", wanted, told(given, sources[0]), tuple(sources))] if wanted else []


def out_folder(given: Given, name: str, default: str) -> Line:
    """The folder of the run."""
    if given.has(name):
        return copied(given, name, "out", given.text(name, default))
    return Line("out", default, "named after this file", (name,) if name in given.values else ())


def copies(given: Given, table: Mapping[str, tuple[str, Any]]) -> list[Line]:
    """A line for each key of the table that the file has, read as the kind of the value beside it."""
    read: dict[type, Callable[[str, Any], Any]] = {
        bool: given.flag,
        int: given.whole,
        float: given.number,
        str: given.text,
        list: lambda name, _: given.texts(name),
    }
    found = [(name, key, kind) for name, (key, kind) in table.items() if given.has(name)]
    return [copied(given, name, key, read[type(kind)](name, kind)) for name, key, kind in found]


def named(lines: Iterable[Line], names: Mapping[str, str]) -> list[Line]:
    """The lines of a configuration whose keys have other names in the file: `names` by the name that was read."""
    return [
        replace(
            line,
            sources=tuple(names.get(source, source) for source in line.sources),
            why=re.sub(r"\w+", lambda word: names.get(word[0], word[0]), line.why),
        )
        for line in lines
    ]


def objective(weights: dict[str, float]) -> str:
    """A weighted sum as a run file has it: `0.8*dpo + bco_pair`."""
    return " + ".join(name if weight == 1 else f"{toml(float(weight))}*{name}" for name, weight in weights.items())
