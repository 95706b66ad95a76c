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
from scoreonce.schemas.errors import InputError
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
        return run.replace({**_OF_ONE_RUN, **self.settings, **own}).model_copy(update={"compare": Compare()})


# What a run file says of its own method and policy, and no candidate takes over.
_OF_ONE_RUN = dict.fromkeys(
    ("train.objective", "train.calibration", "train.selection", "evaluate.model", "evaluate.label")
)


@dataclass(frozen=True)
class Plan:
    """All candidates, and what to say about them."""

    candidates: tuple[Candidate, ...]
    seeds: tuple[int, ...]
    notes: tuple[str, ...] = ()


def plan(run: Run) -> Plan:
    """The candidates of a run file's [compare]: all of a grid, or some drawn from it.

    A setting that a method does not have is left out for that method, with a note. Raises `InputError` for a method or
    value that cannot be used, and for settings that training does not read.
    """
    asked = run.compare
    _require_of_training(asked.vary)
    keys_of = {name: _keys_of(name, asked.vary) for name in asked.methods or [run.train.method]}
    _require_read(run, keys_of)
    grids, notes = [], []
    for name, keys in keys_of.items():
        if left := [key for key in asked.vary if key not in keys]:
            notes.append(f"{name} has no {', '.join(key.removeprefix('train.') for key in left)}")
        grids.append([{"train.method": name, **values} for values in _grid({key: asked.vary[key] for key in keys})])
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


def _require_of_training(vary: Mapping[str, Sequence[Any]]) -> None:
    for key, values in vary.items():
        if not key.startswith("train.") or key in OWN_KEYS:
            raise InputError(
                "A comparison varies what training reads: pairs and reference are the same for all candidates.",
                found=f"{key} = {list(values)!r}",
                where="compare.vary, or --set",
                fix="Vary keys of [train], for the size of the dataset train.share; name methods with --method, and "
                "give the number of seeds with --seeds.",
            )


def _require_read(run: Run, keys_of: Mapping[str, Sequence[str]]) -> None:
    """Raise `InputError` for a varied key that no run file has, or that none of the methods reads."""
    read = {key for keys in keys_of.values() for key in keys}
    for key, values in run.compare.vary.items():
        for value in values:
            run.replace({key: value})
        if not values or key not in read:
            raise InputError(
                "There is nothing to vary.",
                found=f"{key} has no values" if not values else f"{', '.join(keys_of)} without {key}",
                where="compare.vary, or --set",
                fix="Leave this key out. `scoreonce methods NAME` lists the hyperparameters of a method.",
            )


def _keys_of(name: str, vary: Mapping[str, Any]) -> list[str]:
    """The varied keys that a method reads."""
    read = methods.accepted(name) | Train.model_fields.keys()
    return [key for key in vary if key.removeprefix("train.") in read]


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
