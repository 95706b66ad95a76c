"""The plain padded two-sequence loop that benchmarks/gpu.py sets beside ours: TRL's way, where TRL itself is absent.

Chosen and rejected are sequences of their own, prompt repeated, padded to the longest of the micro-batch, pairs in the
order of the data, attention by SDPA. The head is TRL 1.16's algorithm: logits of 4,096 tokens at a time in the model's
dtype, folded into log-probs by one fused kernel, recomputed in the backward, gradients summed in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from scoreonce.pipeline.batches.device_transfer import moved
from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.head import kernels as fused

CHUNK = 4_096  # tokens
BETA = 0.1


def scored(model: Any, rows: Sequence[PromptRow], micro: int) -> None:
    """The reference pass: log-probs of both sides of every pair, `micro` pairs at a time, read back once at the end."""
    with torch.no_grad():
        parts = [torch.stack(_logps(model, part)) for part in _parts(rows, micro)]
    torch.cat(parts, 1).cpu()


def backward(model: Any, rows: Sequence[PromptRow], micro: int, reference: Tensor) -> None:
    """Leave the gradient of the DPO loss over `rows`; `reference` (2, pairs) are the cached log-probs of both sides."""
    start = 0
    for part in _parts(rows, micro):
        chosen, rejected = _logps(model, part)
        cached = reference[:, start : start + len(part)]
        start += len(part)
        margin = (chosen - cached[0]) - (rejected - cached[1])
        (-logsigmoid(BETA * margin).sum() / len(rows)).backward()


def _parts(rows: Sequence[PromptRow], micro: int) -> Iterator[Sequence[PromptRow]]:
    return (rows[start : start + micro] for start in range(0, len(rows), micro))


def _logps(model: Any, rows: Sequence[PromptRow]) -> tuple[Tensor, Tensor]:
    """Summed log-probs of the first and of the second completions: (pairs,) each, nats."""
    sides = [(row.prompt, row.completions[side]) for side in (0, 1) for row in rows]
    length = max(len(prompt) + len(completion) for prompt, completion in sides)
    ids, mask = (np.zeros((len(sides), length), dtype=np.int64) for _ in range(2))
    predicts, owners = [], []
    for line, (prompt, completion) in enumerate(sides):
        stop = len(prompt) + len(completion)
        ids[line, :stop], mask[line, :stop] = np.concatenate([prompt, completion]), 1
        predicts.append(line * length + np.arange(len(prompt) - 1, stop - 1))
        owners.append(np.full(len(completion), line))
    batch = (ids, mask, np.concatenate(predicts), np.concatenate(owners), np.concatenate([c for _, c in sides]))
    input_ids, attention_mask, places, owner, targets = (
        moved(torch.from_numpy(array.astype(np.int64)), model.device) for array in batch
    )
    output = model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    hidden = output.last_hidden_state.flatten(0, 1).index_select(0, places)
    logps = _Head.apply(hidden, model.get_output_embeddings().weight, targets)
    sums = torch.zeros(len(sides), device=model.device).index_add(0, owner, logps)
    return sums[: len(rows)], sums[len(rows) :]


def _folded(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return fused.log_probs(logits.float(), targets)


def _slope(logits: Tensor, log_normaliser: Tensor, targets: Tensor, upstream: Tensor) -> Tensor:
    return fused.gradient(logits.float(), log_normaliser, targets, upstream, None, logits.dtype)


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        fold = fused.compiled(_folded) if hidden.is_cuda else _folded
        parts = [fold(hidden[part] @ weight.T, targets[part]) for part in _chunks(len(hidden))]
        log_normaliser, logps = (torch.cat(column) for column in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, targets, log_normaliser)
        return logps

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight, targets, log_normaliser = ctx.saved_tensors
        slope = fused.compiled(_slope) if hidden.is_cuda else _slope
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        for part in _chunks(len(hidden)):
            logits = hidden[part] @ weight.T
            d_logits = slope(logits, log_normaliser[part], targets[part], upstream[0][part])
            d_hidden[part] = d_logits @ weight
            if hidden.dtype == torch.float32:
                d_weight += d_logits.T @ hidden[part]
            else:
                torch.addmm(d_weight, d_logits.T, hidden[part], out_dtype=torch.float32, out=d_weight)
        return d_hidden, d_weight.to(weight.dtype), None


def _chunks(tokens: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, tokens, CHUNK)]
