"""Which layout of the forward pass is exact for a model: found out by running it, never by a list of names.

A 4-D mask is silently ignored or misread by some attention (off by 0.3-0.7 in the logits), refused by others, and
means nothing to state-space layers. So before any work, random rows go through the model's own logits, through the
padded layout and through the faster ones, and only what agrees is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from scoreonce.pipeline import architecture, flex
from scoreonce.pipeline.errors import InputError
from scoreonce.pipeline.forward import TokenScorer
from scoreonce.pipeline.rows import BLOCK, Layout, PromptRow

# Nats per token, as the worst completion's mean: far above rounding, far below what a wrong mask does.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 1e-9}


GRADIENTLESS = ("cpu",)  # devices for which flex attention has a forward pass alone


@dataclass(frozen=True)
class Probe:
    """The layout to use, how far it was from the oracle (nats per token), and why it is not a faster one."""

    layout: Layout
    deviation: float
    reason: str = ""


Oracle = list[tuple[list[PromptRow], Tensor]]  # rows and the log-probs of their tokens in the padded layout


def choose_layout(
    model: torch.nn.Module,
    requested: Literal["auto"] | Layout,
    longest_row: int,
    multiple: int = BLOCK,
    *,
    compiled: bool = False,
    trains: bool = False,
) -> Probe:
    """Probe `model` with random rows; rows as long as `longest_row` are tried where a sliding window is shorter.

    "auto" is the first that is exact of block masks (on a GPU) or packed rows (on a CPU), the shared layout and the
    padded one. Where it is "flex", the model's attention is left switched to it, its blocks `compiled` if that is asked
    for, and lines are to be as long as a `multiple`; a model that `trains` must be able to go backward so. Raises
    `InputError` where the head's log-probs are not the model's own, and where a layout was asked for and is not exact.
    """
    lm = architecture.causal_lm(model)
    short = _random_rows(lm)
    padded = _token_logps(model, "padded", short)
    head_deviation = _deviation(padded, _own_token_logps(lm, short), short)
    tolerance = TOLERANCE[lm.dtype]
    # Models round their own logits to bf16, our head does not: allow for that much more.
    if head_deviation > 5 * tolerance:
        raise InputError(
            f"The output head of {type(lm).__name__} is not understood: log-probs differ from the model's own logits.",
            found=f"{head_deviation:.2e} nats per token, more than {5 * tolerance:.0e}",
            where="the probe before scoring",
            fix="Report this architecture; it scales or caps its logits in a way that is not declared in its config.",
        )
    if requested == "padded":
        return Probe("padded", head_deviation, "asked for")
    oracle = [(short, padded)]
    if long := _rows_past_the_window(lm, longest_row):
        oracle.append((long, _token_logps(model, "padded", long)))
    reasons: list[str] = []
    for layout in _candidates(lm, longest_row) if requested == "auto" else (requested,):
        before = lm.config._attn_implementation
        deviation, problem = _try(model, lm, layout, oracle, multiple, compiled=compiled, trains=trains)
        if deviation <= tolerance + 5 * head_deviation:
            return Probe(layout, deviation, "; ".join(reasons))
        if layout == "flex":
            flex.switch_off(lm, before)
            model.zero_grad()
        reasons.append(f"{layout}: {problem or f'rows differ from padded ones by {deviation:.1e} nats per token'}")
    if requested != "auto":
        raise InputError(
            f"{type(lm).__name__} cannot share prompts between completions.",
            found=reasons[0],
            where="compute.attention",
            fix='Use compute.attention = "auto".',
        )
    return Probe("padded", head_deviation, "; ".join(reasons))


def _candidates(model: PreTrainedModel, longest_row: int) -> tuple[Layout, ...]:
    if model.device.type == "cuda":
        return ("flex", "shared")
    return ("packed", "shared") if architecture.attends_by_rows(model, longest_row) else ("shared",)


def _try(
    model: torch.nn.Module,
    lm: PreTrainedModel,
    layout: Layout,
    oracle: Oracle,
    multiple: int,
    *,
    compiled: bool,
    trains: bool,
) -> tuple[float, str]:
    """The largest deviation from the oracle, and what is wrong where that is no number."""
    if architecture.windows(lm) is None:
        kinds = architecture.settings(lm)["layer_types"]
        return float("inf"), f"its attention layers are of a kind without a known mask: {kinds}"
    if layout == "flex" and lm.device.type in GRADIENTLESS:
        return float("inf"), "flex attention has no gradient on a CPU"
    try:
        if layout == "flex":
            flex.switch_on(lm)
            if compiled:
                flex.compile_blocks(lm)
        found = [_deviation(_token_logps(model, layout, rows, multiple), logps, rows) for rows, logps in oracle]
        if layout == "flex" and trains:  # a kernel of its own, which may not fit a GPU that the forward one fits
            TokenScorer(model, layout, multiple=multiple)(oracle[0][0]).sums().sum().backward()
            model.zero_grad()
    except (
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        KeyError,
    ) as error:  # what models and compilers raise at a mask that they do not take
        return float("inf"), f"no custom mask ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
    return (max(found), "") if np.isfinite(found).all() else (float("inf"), "non-finite log-probs")


def _random_rows(model: PreTrainedModel, seed: int = 0) -> list[PromptRow]:
    random, vocabulary = np.random.default_rng(seed), model.get_input_embeddings().weight.shape[0]

    def ids(low: int, high: int) -> np.ndarray:
        return random.integers(0, vocabulary, random.integers(low, high), dtype=np.int32)

    return [PromptRow(ids(2, 24), (ids(1, 16), ids(8, 16), ids(1, 16))) for _ in range(3)]


def _rows_past_the_window(model: PreTrainedModel, longest_row: int) -> list[PromptRow]:
    window = min((w for w in (architecture.windows(model) or {}).values() if w), default=longest_row)
    if longest_row <= window:
        return []
    random, vocabulary = np.random.default_rng(1), model.get_input_embeddings().weight.shape[0]
    ids = random.integers(0, vocabulary, longest_row, dtype=np.int32)
    third = max(1, longest_row // 3)
    return [PromptRow(ids[:third], (ids[third : 2 * third], ids[2 * third :]))]


@torch.inference_mode()
def _token_logps(model: torch.nn.Module, layout: Layout, rows: list[PromptRow], multiple: int = BLOCK) -> Tensor:
    return TokenScorer(model, layout, multiple=multiple)(rows).token_logps


@torch.inference_mode()
def _own_token_logps(model: PreTrainedModel, rows: list[PromptRow]) -> Tensor:
    parts = []
    for row in rows:
        for completion in row.completions:
            ids = torch.from_numpy(np.concatenate([row.prompt, completion]).astype(np.int64)).to(model.device)
            logits = model(input_ids=ids[None], use_cache=False).logits[0, len(row.prompt) - 1 : -1].float()
            parts.append(logits.log_softmax(1).gather(1, ids[len(row.prompt) :, None]).squeeze(1))
    return torch.cat(parts)


def _deviation(left: Tensor, right: Tensor, rows: list[PromptRow]) -> float:
    lengths = [len(completion) for row in rows for completion in row.completions]
    differences = (left.double() - right.double()).abs().split(lengths)
    return float(torch.stack([part.mean() for part in differences]).max())
