"""How long a comparison takes, before it is run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from scoreonce.pipeline.pages.numbers import duration
from scoreonce.stages.common.method_file import load_allowed
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.compare.earlier import replaced
from scoreonce.stages.compare.plan import Plan, plan, shares, shortened
from scoreonce.stages.compare.trials import is_finished, quiet
from scoreonce.stages.config import Run, Train
from scoreonce.stages.data.prepared_pairs import require_pairs

logger = logging.getLogger(__name__)
FORWARD = 3  # forward passes that a training step takes as long as: one forward, and a backward of about two


@dataclass(frozen=True)
class CompareEstimate:
    """What is left of a comparison, on this machine.

    `scoring`: seconds of the reference pass. `training`: by method, seconds of all its trainings and evaluations.
    `trainings`: their number by method, the short ones of successive halving included.
    """

    scoring: float
    training: dict[str, float]
    trainings: dict[str, int]

    @property
    def seconds(self) -> float:
        """All of it, one after the other."""
        return self.scoring + sum(self.training.values())


def estimate(run: Run, *, restart: bool = False, allow_method_file: bool = False) -> CompareEstimate:
    """What `compare` would take, measured with the model for some seconds. Prepares the pairs, and trains nothing.

    Before the reference pass a training step is taken to be `FORWARD` forward passes; after it, a few steps of each
    method are measured. Loading a model and writing a checkpoint are not counted. Raises `InputError` as `compare`.
    """
    from scoreonce.stages.prepare import stage as prepare
    from scoreonce.stages.score import stage as score

    if run.train.method_file:
        load_allowed(run.train.method_file, allowed=allow_method_file)
    planned = plan(run)
    prepare.prepare(run)
    counts = require_pairs(run).counts
    with quiet():
        scoring = score.estimate(run)
    forward = scoring.seconds / scoring.pairs if scoring.pairs else None
    step: dict[str, float] = {}  # seconds for a pair, by method
    training: dict[str, float] = {}
    trainings: dict[str, int] = {}
    every = list(_trials(run, planned))
    scored = every if forward is None else []  # before the reference pass nothing can be told of the others
    again = replaced(scored, restart=restart, allow_method_file=allow_method_file)
    for trial in every:
        if is_finished(trial) and RunPaths.of(trial).label not in again:
            continue
        name = trial.train.method
        if name not in step:
            step[name] = _measured(trial, counts.train, allow_method_file) if forward is None else FORWARD * forward
        seconds = step[name] * (_trained(trial.train, counts.train) + counts.test / FORWARD)
        training[name] = training.get(name, 0.0) + seconds
        trainings[name] = trainings.get(name, 0) + 1
    found = CompareEstimate(scoring.seconds, training, trainings)
    logger.info("\n".join(_said(found, rough=forward is not None)))
    return found


def _trials(run: Run, planned: Plan) -> Iterator[Run]:
    """All trainings. Which candidates successive halving goes on with is not known before."""
    candidates, halving = list(planned.candidates), run.compare.search == "halving"
    for share in shares(len(candidates), run.compare.keep) if halving else [1.0]:
        for candidate in candidates:
            yield from (shortened(candidate, run, share).trial(run, seed) for seed in planned.seeds)
        candidates = candidates[: max(1, len(candidates) // run.compare.keep)]


def _measured(trial: Run, count: int, allow_method_file: bool) -> float:
    """Seconds that a pair takes in training."""
    from scoreonce.stages.score import stage as score
    from scoreonce.stages.train import stage as train

    with quiet():
        score.score(trial)  # everything is in the store: it writes the tables of these pairs, if they are not there
        return train.estimate(trial, allow_method_file=allow_method_file).seconds / _trained(trial.train, count)


def _trained(train: Train, count: int) -> float:
    """How many pairs a training passes over, of `count` there are."""
    return train.max_steps * train.batch_pairs if train.max_steps else train.epochs * train.share * count


def _said(found: CompareEstimate, *, rough: bool) -> Iterator[str]:
    if found.scoring:
        yield f"scoring   about {duration(found.scoring)}, once"
    width = max(8, *map(len, found.trainings), 0)
    for name, count in found.trainings.items():
        yield f"{name:<{width}}  {count:,} training{'s' * (count > 1)}, about {duration(found.training[name])}"
    if not found.trainings:
        yield "Nothing is left to train."
        return
    yield f"{'in all':<{width}}  about {duration(found.seconds)}, one after the other, measured here"
    if rough:
        yield f"          (a step taken as {FORWARD} forward passes; after `scoreonce score` each method is measured)"
