"""One evaluation: the policy's columns of the sample, over all processes, and the figures of them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoreonce.pipeline.evaluation.while_training import held_out_figures
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.forward.sharding import release
from scoreonce.pipeline.training import sampling
from scoreonce.pipeline.training.metrics import step_metrics
from scoreonce.pipeline.training.policy_columns import PolicyColumns
from scoreonce.pipeline.training.step import Step
from scoreonce.schemas import held_out as h
from scoreonce.stages.held_out.sample import Sample
from scoreonce.stages.held_out.settings import METRICS, OF_POLICY, has_loss, reads
from scoreonce.stages.sharded.processes import on_first

OF_THE_METHOD = ("loss", "rewards/", "logps/")  # beginnings of the metrics of a step that are shown of an evaluation

Row = dict[str, Any]


class Evaluation(NamedTuple):
    """A row of `HeldOutStep`, and its figures and the method's own as metrics, without those that are not known."""

    row: Row
    metrics: dict[str, float | int]


@dataclass(frozen=True)
class Evaluator:
    """The sample, and a training step whose `scorer` is the bare policy: evaluating has no part in training.

    Nothing random is drawn, the method's state is read and not moved, and there is no gradient. Each process scores its
    share of the pairs; the figures are made by the first, so that all have the same ones.
    """

    sample: Sample
    step: Step
    scorer: TokenScorer
    budget: int  # tokens of a micro-batch, as in training
    seed: int
    steps: int  # of the whole run

    def __call__(self, after: int, state: Mapping[str, Tensor]) -> Evaluation:
        """The figures of the policy after that step. All processes call this."""
        started = time.perf_counter()
        asked = PolicyColumns.of(reads(self.step.method))
        policy = self.step.columns_of(self.sample.rows, asked, self.budget)
        release(self.scorer)
        return on_first(lambda: self._figures(after, state, policy, started))

    def _figures(
        self, after: int, state: Mapping[str, Tensor], policy: Mapping[str, Tensor], started: float
    ) -> Evaluation:
        own, losses = self._of_the_method(after, state, policy) if has_loss(self.step.method) else ({}, None)
        table = self.sample.table({name: policy[name].cpu().numpy() for name in OF_POLICY})
        row: Row = {
            h.STEP.name: after,
            h.PAIRS.name: len(self.sample),
            h.LOSS.name: own.get("loss"),
            **held_out_figures(table),
            h.SECONDS.name: time.perf_counter() - started,
            h.PAIR_LOSSES.name: losses,
        }
        shown = {name: row[column] for column, name in METRICS.items() if row[column] is not None}
        return Evaluation(row, {f"eval/{name}": value for name, value in own.items()} | shown)

    @torch.no_grad()
    def _of_the_method(
        self, after: int, state: Mapping[str, Tensor], policy: Mapping[str, Tensor]
    ) -> tuple[dict[str, float], list[float] | None]:
        """What the method makes of the sample as one batch: those metrics of a step that are finite, and the losses of
        the pairs, weighted so that their mean is the loss; None where one of them is not finite, or the loss is no
        mean of them.
        """
        method, cached = self.step.method, dict(self.sample.columns)
        if method.random:
            cached["exponential_draws"] = sampling.exponential_draws(len(self.sample), 0, seed=self.seed)
        if method.scheduled:
            cached["progress"] = np.array(after / self.steps)
        device = next(iter(policy.values())).device
        columns = {name: torch.from_numpy(values).to(device) for name, values in cached.items()} | dict(policy)
        outcome = method.run(columns, dict(state), training=False)
        found = step_metrics(outcome, columns)
        shown = {n: value for n, value in found.items() if n.startswith(OF_THE_METHOD) and math.isfinite(value)}
        if outcome.reduced is not None:
            return shown, None
        weighted = outcome.losses * outcome.weight / outcome.weight.mean()
        losses = weighted.float().cpu()
        return shown, losses.tolist() if bool(losses.isfinite().all()) else None
