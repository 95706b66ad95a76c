"""Which trainings a comparison is made of: methods × values of the varied settings × seeds, as changes of a run."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scoreonce.pipeline import methods
from scoreonce.schemas.errors import InputError, did_you_mean
from scoreonce.schemas.names import name_of
from scoreonce.stages.config import Compare, Run, Train

LONGEST = 80  # characters of a candidate's name, to which the seed is added
OWN_KEYS = ("train.method", "train.label", "train.seed")


@dataclass(frozen=True)
class Candidate:
    """A method with its settings. `settings` are the varied keys of the run file, and `train.method`."""

    name: str
    settings: Mapping[str, Any]

    def trial(self, run: Run, seed: int) -> Run:
        """The run that trains it with a seed."""
        own = {"train.seed": seed, "train.label": f"{self.name}-s{seed}"}
        settings = {**_OF_ONE_POLICY, **self.settings, **own}
        return run.of_method(self.method).replace(settings).model_copy(update={"compare": Compare()})

    @property
    def method(self) -> str:
        """Its method."""
        return str(self.settings["train.method"])


# What a run file says of its own policy, and no candidate takes over.
_OF_ONE_POLICY = dict.fromkeys(("evaluate.model", "evaluate.label"))


@dataclass(frozen=True)
class Plan:
    """All candidates, and what to say about them."""

    candidates: tuple[Candidate, ...]
    seeds: tuple[int, ...]
    notes: tuple[str, ...] = ()


def plan(run: Run) -> Plan:
    """The candidates of a run file's [compare]: all of a grid, or some drawn from it.

    A setting that a method does not have is left out for that method, with a note; values that are given for one method
    (`simpo.train.beta`) replace those for all. Raises `InputError` for a method or value that cannot be used, and for
    settings that training does not read.
    """
    asked = run.compare
    names = asked.methods or [run.train.method]
    _require_of_training(asked.vary, names)
    vary_of = {name: _vary_of(name, asked.vary) for name in names}
    _require_read(run, vary_of)
    grids, notes = [], []
    for name, vary in vary_of.items():
        if left := [key for key in asked.vary if key.startswith("train.") and key not in vary]:
            notes.append(f"{name} has no {', '.join(key.removeprefix('train.') for key in left)}")
        grids.append([{"train.method": name, **values} for values in _grid(vary)])
    found = _drawn(grids, asked.trials, asked.seed) if asked.search == "random" else list(itertools.chain(*grids))
    candidates = tuple(Candidate(name, settings) for name, settings in zip(_names(found), found, strict=True))
    for candidate in candidates:  # each is checked before the first is trained
        settings = candidate.trial(run, run.train.seed).train
        methods.resolve(settings.method, settings.hyperparameters, **settings.pieces)
    return Plan(candidates, tuple(range(run.train.seed, run.train.seed + asked.seeds)), tuple(notes))


def shares(candidates: int, keep: int) -> list[float]:
    """The share of the training that each round of successive halving gets, the last all of it.

    A `keep`-th of the candidates goes on to the next round, so that every round costs about as much (Jamieson and
    Talwalkar 2016).
    """
    rounds = 1 + max(0, math.floor(math.log(candidates) / math.log(keep) + 1e-9))
    return [keep ** -(rounds - 1 - number) for number in range(rounds)]


def shortened(candidate: Candidate, run: Run, share: float) -> Candidate:
    """The candidate trained for a share of its epochs or steps; it begins anew, so that its schedule ends with it."""
    if share == 1:
        return candidate
    train = run.replace(dict(candidate.settings)).train
    length: dict[str, Any] = {"train.epochs": train.epochs * share}
    if train.max_steps is not None:
        length = {"train.max_steps": max(1, round(train.max_steps * share))}
    return Candidate(f"{candidate.name}-part{share:.3g}", {**candidate.settings, **length})


def not_taken_over(run: Run) -> str | None:
    """What to say where hyperparameters of the run file are its own method's, and others are compared too."""
    others = [name for name in run.compare.methods if name != run.train.method]
    vary = {key for name in others for key in _vary_of(name, run.compare.vary)}
    own = [key for key in run.train.hyperparameters if f"train.{key}" not in vary]
    if not own or not others:
        return None
    return (
        f"{', '.join(own)} of the run file: for {run.train.method} alone; {', '.join(others)} begin with the defaults "
        f"of `scoreonce methods`. For another value: --set {others[0]}.train.KEY=VALUE"
    )


def _of(key: str) -> tuple[str | None, str]:
    """The method that a varied key is for, None for all, and the key of the run file."""
    method, separator, rest = key.partition(".train.")
    return (method, f"train.{rest}") if separator else (None, key)


def _require_of_training(vary: Mapping[str, Sequence[Any]], names: Sequence[str]) -> None:
    for key, values in vary.items():
        method, own = _of(key)
        if not own.startswith("train.") or own in OWN_KEYS:
            raise InputError(
                "A comparison varies what training reads: pairs and reference are the same for all candidates.",
                found=f"{key} = {list(values)!r}",
                where="compare.vary, or --set",
                fix="Vary keys of [train], for the size of the dataset train.share, for one method alone "
                "METHOD.train.KEY; name methods with --method, and give the number of seeds with --seeds.",
            )
        if method is not None and method not in names:
            raise InputError(
                "A setting is for a method that is not compared.",
                found=f"{key}, and the methods are {', '.join(names)}.{did_you_mean(method, list(names))}",
                where="compare.vary, or --set",
                fix="Write METHOD.train.KEY with one of these methods, or add the method with --method.",
            )


def _require_read(run: Run, vary_of: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `InputError` for a varied key that no run file has, or that none of its methods reads."""
    for given, values in run.compare.vary.items():
        method, key = _of(given)
        for value in values:
            run.replace({key: value})
        names = [method] if method is not None else list(vary_of)
        if not values or not any(key in vary_of[name] for name in names):
            raise InputError(
                "There is nothing to vary.",
                found=f"{given} has no values" if not values else f"{', '.join(names)} without {key}",
                where="compare.vary, or --set",
                fix="Leave this key out. `scoreonce methods NAME` lists the hyperparameters of a method.",
            )


def _vary_of(name: str, vary: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The varied keys that a method reads, with their values for it: its own, else those for all methods."""
    read = methods.accepted(name) | Train.model_fields.keys()
    given = {(method, key): values for each, values in vary.items() for method, key in [_of(each)]}
    keys = dict.fromkeys(key for method, key in given if method in (None, name) and key.removeprefix("train.") in read)
    return {key: given.get((name, key)) or given[None, key] for key in keys}


def _grid(vary: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination, the last key changing fastest."""
    for values in itertools.product(*vary.values()):
        yield dict(zip(vary, values, strict=True))


def _drawn(grids: Sequence[Sequence[dict[str, Any]]], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` distinct candidates: each is of a method drawn first, so that a large grid does not crowd out others."""
    generator, left = random.Random(seed), [list(grid) for grid in grids]
    found: list[dict[str, Any]] = []
    while len(found) < count and any(left):
        grid = generator.choice([grid for grid in left if grid])
        found.append(grid.pop(generator.randrange(len(grid))))
    return found


def _names(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each: its method and values, or a digest of them where that is too long or not the only one."""
    plain = [name_of("-".join(_short(key, value) for key, value in each.items())) for each in found]
    return [
        name if len(name) <= LONGEST and plain.count(name) == 1 else f"{each['train.method']}-{_digest(each)}"
        for name, each in zip(plain, found, strict=True)
    ]


def _short(key: str, value: Any) -> str:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return shown if key == "train.method" else key.removeprefix("train.") + shown


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
