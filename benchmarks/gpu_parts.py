"""What benchmarks/gpu.py looks at besides rates: agreement with the oracle, the head alone, a step by phase."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import torch

from scoreonce.pipeline.batches.microbatches import batcher_for
from scoreonce.pipeline.batches.prompt_rows import PromptRow, RowLayout, sequence_multiple
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.continuation import predicting
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.head import kernels as fused
from scoreonce.pipeline.head import log_probs as head_module
from scoreonce.pipeline.head.log_probs import token_columns

if TYPE_CHECKING:
    from gpu import Bench, Trained


@torch.inference_mode()
def agreement(
    model: Any, rows: list[PromptRow], layout: RowLayout, budget: int, oracle: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Nats per token from a float32 model of the same weights, mean and largest: ours, and padded rows in two ways."""
    scorer = TokenScorer(model, layout, multiple=sequence_multiple(budget))
    sides = {
        "ours": scorer(rows).token_logps,
        "padded rows together": oracle["together"],
        "padded rows one at a time": oracle["alone"],
    }
    off = {name: (logps - oracle["float32"]).abs().double() for name, logps in sides.items()}
    return {
        f"{name}, {of}": value
        for name, nats in off.items()
        for of, value in (("mean", float(nats.mean())), ("largest", float(nats.max())))
    }


@torch.inference_mode()
def oracles(model: Any, rows: list[PromptRow]) -> dict[str, torch.Tensor]:
    """Log-probs in the padded layout: all rows at once, one at a time, and of a float32 copy of the model."""
    scorer, exact = TokenScorer(model, "padded"), TokenScorer(copy.deepcopy(model).float(), "padded")

    def alone(scorer: TokenScorer) -> torch.Tensor:
        return torch.cat([scorer([row]).token_logps for row in rows])

    return {"together": scorer(rows).token_logps, "alone": alone(scorer), "float32": alone(exact)}


def head_times(bench: Bench, model: Any, tokens: int) -> dict[str, Any]:
    """Milliseconds of the head: log-probs with statistics, log-probs and gradient; by chunk, compiled or not."""
    head = architecture.head_of(model)
    hidden = torch.randn(tokens, head.weight.shape[1], device=bench.device).to(bench.dtype).requires_grad_()
    targets = torch.randint(head.weight.shape[0], (tokens,), device=bench.device)

    def forward() -> None:
        with torch.no_grad():
            token_columns(hidden, head, targets, statistics=True)

    def gradient() -> None:
        token_columns(hidden, head, targets).logps.sum().backward()
        model.zero_grad()

    found: dict[str, Any] = {"product alone, ms": 1e3 * bench.timed(lambda: hidden.detach() @ head.weight.T.detach())}
    kept = head_module.CUDA_CHUNK_ELEMENTS, fused.is_worth_compiling
    for elements in (kept[0] // 2, kept[0], 2 * kept[0], 4 * kept[0]):
        for compiled in (False, True) if elements == kept[0] else (True,):
            head_module.CUDA_CHUNK_ELEMENTS = elements
            fused.is_worth_compiling = kept[1] if compiled else lambda logits: False
            name = f"chunks of 2^{elements.bit_length() - 1}{'' if compiled else ', not compiled'}"
            found[f"{name}: scoring, ms"] = 1e3 * bench.timed(forward)
            found[f"{name}: training, ms"] = 1e3 * bench.timed(gradient)
    head_module.CUDA_CHUNK_ELEMENTS, fused.is_worth_compiling = kept
    return found


def phases(bench: Bench, trained: Trained, rows: list[PromptRow], budget: int, layout: RowLayout) -> dict[str, Any]:
    """Milliseconds of one training line by phase, each waited for, and on a GPU its dearest kernels."""
    model = trained.model
    scorer = TokenScorer(model, layout, multiple=sequence_multiple(budget))
    line = [rows[i] for i in batcher_for(layout)([row.tokens for row in rows], budget)[0]]
    marks: list[tuple[str, float]] = []

    def mark(name: str) -> None:
        bench.wait()
        marks.append((name, time.perf_counter()))

    def run() -> None:
        marks.clear()
        mark("start")
        batch = scorer._batch(line, bench.device)
        mark("rows to tensors")
        hidden = predicting(scorer._body_output(line, batch), batch)
        mark("body, forward")
        cut = hidden.detach().requires_grad_()
        logps = token_columns(cut, architecture.head_of(model), batch.targets).logps
        mark("head, forward")
        logps.sum().backward()
        mark("head, backward")
        hidden.backward(cut.grad)
        mark("body, backward")
        trained.update()
        mark("update")

    run()
    run()
    found: dict[str, Any] = {
        f"{name}, ms": 1e3 * (now - before) for (_, before), (name, now) in zip(marks, marks[1:], strict=False)
    }
    if bench.device.type == "cuda":
        activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities) as profiler:
            run()
        kernels = [event for event in profiler.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
        kernels.sort(key=lambda event: -event.self_device_time_total)
        found["kernels, ms"] = {event.key[:90]: event.self_device_time_total / 1e3 for event in kernels[:20]}
    return found
