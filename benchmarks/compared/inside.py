"""A look inside scoreonce's step: time of each phase, and a DPO step against a plain SFT step over the same rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import child
import torch
from machine import gemm_rates
from torch import Tensor

from compared.ours import settings
from scoreonce.pipeline import methods
from scoreonce.pipeline.batches.microbatches import batcher_for
from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward import layout_probe as probe
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.training.optimizer import Masters, gradient_norm, make_optimizer
from scoreonce.pipeline.training.step import Step
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.memory.huge_pages import move_to_huge_pages
from scoreonce.stages.models import loading as models
from scoreonce.stages.train import data as training_data

PHASES = ("data", "layout", "forward, body", "forward, head", "backward, head", "backward, body", "optimizer")


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True)
class Parts:
    """A policy ready to train, put together from the pipeline's own functions."""

    scorer: TokenScorer
    masters: Masters
    optimizer: torch.optim.Optimizer
    data: training_data.TrainingData
    budget: int
    clip: float

    @classmethod
    def of(cls, run: Run) -> Parts:
        device = models.resolve_device(run.compute.device)
        data = training_data.load_training_data(RunPaths.of(run), methods.resolve("dpo", {}).reads)
        model = models.load_model(run.reference.model, dtype=run.reference.dtype, device=device)
        move_to_huge_pages(model)
        layout = probe.choose_layout(model, run.compute.attention, data.longest_row).layout
        scorer = TokenScorer(model, layout)
        masters = Masters.of(scorer.parameters())
        optimizer = make_optimizer(scorer, masters, run.train)
        return cls(scorer, masters, optimizer, data, run.compute.budget(device.type), run.train.max_grad_norm)

    def rows(self, pairs: Sequence[int]) -> list[PromptRow]:
        return [self.data.row(pair) for pair in pairs]

    def columns(self, pairs: Sequence[int]) -> dict[str, Tensor]:
        device = self.masters.parameters[0].device
        return {name: torch.from_numpy(values[list(pairs)]).to(device) for name, values in self.data.columns.items()}

    def update(self) -> None:
        """What `train` does between two steps."""
        self.masters.take_gradients()
        norm = gradient_norm(self.masters.masters)
        torch.nn.utils.clip_grads_with_norm_(self.masters.masters, self.clip, torch.tensor(norm))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.masters.give_weights()

    def dpo_step(self, pairs: Sequence[int]) -> None:
        split = batcher_for(self.scorer.layout)
        step = Step(self.scorer, self.masters.parameters, methods.resolve("dpo", {}), split=split)
        step(self.rows(pairs), self.columns(pairs), {}, self.budget)
        self.update()

    def sft_step(self, pairs: Sequence[int]) -> None:
        """The mean log-prob of every completion token: no reference, no pairs, the same rows in the same batches."""
        shown = self.rows(pairs)
        tokens = sum(len(completion) for row in shown for completion in row.completions)
        for batch in batcher_for(self.scorer.layout)([row.tokens for row in shown], self.budget):
            (self.scorer([shown[index] for index in batch]).token_logps.sum() / -tokens).backward()
        self.update()

    def score(self, pairs: Sequence[int]) -> None:
        rows = self.rows(pairs)
        with torch.no_grad():
            for batch in batcher_for(self.scorer.layout)([row.tokens for row in rows], self.budget):
                self.scorer([rows[index] for index in batch])


@dataclass
class Watch:
    """Seconds of each phase, from hooks on the model's body and on the gradient of its output."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    last: float = 0.0

    def mark(self, phase: str) -> None:
        """Everything since the last mark belongs to this phase."""
        moment = now()
        self.seconds[phase] += moment - self.last
        self.last = moment

    @contextmanager
    def over(self, body: torch.nn.Module) -> Iterator[None]:
        def entered(*_: Any) -> None:
            self.mark("layout")

        def left(_: Any, __: Any, output: Any) -> None:
            self.mark("forward, body")
            output.last_hidden_state.register_hook(lambda _: self.mark("backward, head"))

        handles = [body.register_forward_pre_hook(entered), body.register_forward_hook(left)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def phases(parts: Parts, batches: Sequence[Sequence[int]]) -> dict[str, float]:
    """Seconds of each phase, summed over steps."""
    watch, scorer = Watch(), parts.scorer
    with watch.over(architecture.body_of(architecture.causal_lm(scorer.model))):
        for pairs in batches:
            watch.last = now()
            shown = parts.rows(pairs)
            watch.mark("data")
            for batch in batcher_for(scorer.layout)([row.tokens for row in shown], parts.budget):
                loss = scorer([shown[index] for index in batch]).token_logps.sum()
                watch.mark("forward, head")
                loss.backward()
                watch.mark("backward, body")
            parts.update()
            watch.mark("optimizer")
    if not watch.seconds["forward, body"]:
        raise RuntimeError("the scorer runs the model's body without calling it: its phases cannot be told apart")
    return watch.seconds


def alternating(
    first: Callable[[Sequence[int]], None], second: Callable[[Sequence[int]], None], batches: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """Median seconds of two kinds of steps on the same batches, taken in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for pairs in batches:
        for work, taken in zip((first, second), seconds, strict=True):
            started = now()
            work(pairs)
            taken.append(now() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def looked_inside(order: dict[str, Any]) -> dict[str, Any]:
    parts = Parts.of(settings(order))
    size = order["batch"]
    batches = [range(start, start + size) for start in range(0, len(parts.data) - size + 1, size)]
    parts.dpo_step(batches[0])  # allocators, and the optimizer's state
    seconds = phases(parts, batches)
    dpo, sft = alternating(parts.dpo_step, parts.sft_step, batches * order["repeats"])
    forwarded = [row.tokens for pairs in batches for row in parts.rows(pairs)]
    return {
        "phases, s": seconds,
        "tokens": sum(forwarded),
        "pairs": len(forwarded),
        "layout": parts.scorer.layout,
        "GEMM, FLOP/s": gemm_rates(order["device"]),
        "DPO step, s": dpo,
        "SFT step, s": sft,
    }


if __name__ == "__main__":
    child.answer(looked_inside)
