"""Which layout of the forward pass is exact for a model: found out by running it, never by a list of names.

A 4-D mask is silently ignored or misread by some attention (off by 0.3-0.7 in the logits), refused by others, and
means nothing to state-space layers. So before any work, random rows go through the model's own logits, through the
padded layout and through the faster ones, and only what agrees is used. Where several do, the fastest by the clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from scoreonce.pipeline.attention import flex, varlen
from scoreonce.pipeline.attention.last_layer import restore_attention
from scoreonce.pipeline.batches.prompt_rows import FLEX_BLOCK, SEQUENCE_LENGTHS, PromptRow, RowLayout
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.schemas.errors import InputError

# Nats per token, as the worst completion's mean: far above rounding, far below what a wrong mask does.
LAYOUT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 1e-9}


GRADIENTLESS = ("cpu",)  # devices for which flex attention has a forward pass alone


@dataclass(frozen=True)
class Probe:
    """The layout to use, how far it was from the oracle (nats per token), and why it is not a faster one."""

    layout: RowLayout
    deviation: float
    reason: str = ""
    seconds: Mapping[RowLayout, float] = field(default_factory=dict)  # of a full line, where several were timed


Oracle = list[tuple[list[PromptRow], Tensor]]  # rows and the log-probs of their tokens in the padded layout


def choose_layout(
    model: torch.nn.Module,
    requested: Literal["auto"] | RowLayout,
    longest_row: int,
    multiple: int = FLEX_BLOCK,
    *,
    compiled: bool = False,
    trains: bool = False,
) -> Probe:
    """Probe `model` with random rows; rows as long as `longest_row` are tried where a sliding window is shorter.

    "auto" is the first that is exact of packed rows (on a GPU by block masks or flash attention, whichever is faster
    there), the shared layout and the padded one. Where it is "flex" or "flash", the model's attention is left switched
    to it; with block masks its blocks are `compiled` if that is asked for, and lines are as long as a `multiple`. A
    model that `trains` must be able to go backward so. Raises `InputError` where the head's log-probs are not the
    model's own, and where a layout was asked for and is not exact.
    """
    lm = architecture.causal_lm(model)
    short = _random_rows(lm)
    padded = _token_logps(model, "padded", short)
    head_deviation = _deviation(padded, _own_token_logps(lm, short), short)
    tolerance = LAYOUT_TOLERANCE[lm.dtype]
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
    trials = _Trials(model, lm, oracle, tolerance + 5 * head_deviation, longest_row, multiple, compiled, trains)
    groups = _candidates(lm, longest_row, compiled=compiled) if requested == "auto" else ((requested,),)
    reasons: list[str] = []
    for group in groups:
        found, problems = trials.best_of(group)
        if found is not None:
            return replace(found, reason="; ".join(reasons))
        reasons += problems
    if requested != "auto":
        raise InputError(
            f"{type(lm).__name__} cannot share prompts between completions.",
            found=reasons[0],
            where="compute.attention",
            fix='Use compute.attention = "auto".',
        )
    return Probe("padded", head_deviation, "; ".join(reasons))


def _candidates(model: PreTrainedModel, longest_row: int, *, compiled: bool) -> tuple[tuple[RowLayout, ...], ...]:
    """Layouts from the fastest on; of those in one group only the clock knows."""
    if model.device.type == "cuda":
        return (("flex",) if compiled else ("flex", "flash"), ("shared",))
    return (("packed",), ("shared",)) if architecture.attends_by_rows(model, longest_row) else (("shared",),)


def attend_for(model: PreTrainedModel, layout: RowLayout, *, compiled: bool = False) -> None:
    """Have a model attend as `layout` wants it. Raises `ValueError` where its attention cannot be exchanged."""
    if layout == "flash":
        varlen.switch_on(model)
    if layout == "flex":
        flex.switch_on(model)
        if compiled:
            flex.compile_blocks(model)


@dataclass(frozen=True)
class _Trials:
    """Layouts tried on one model."""

    model: torch.nn.Module
    lm: PreTrainedModel
    oracle: Oracle
    limit: float  # nats per token that an exact layout may be off the oracle
    longest_row: int
    multiple: int
    compiled: bool
    trains: bool

    def best_of(self, group: Sequence[RowLayout]) -> tuple[Probe | None, list[str]]:
        """Of the exact layouts the fastest, with the model switched to it, and what is wrong with the others."""
        found: list[Probe] = []
        problems: list[str] = []
        seconds: dict[RowLayout, float] = {}
        before = self.lm.config._attn_implementation
        for layout in group:
            deviation, problem = self._tried(layout)
            if deviation <= self.limit:
                found.append(Probe(layout, deviation))
                if len(group) == 1:
                    return found[0], []
                seconds[layout] = self._seconds(layout)
            else:
                off = f"rows differ from padded ones by {deviation:.1e} nats per token"
                problems.append(f"{layout}: {problem or off}")
            restore_attention(self.lm, before)
            self.model.zero_grad()
        if not found:
            return None, problems
        best = min(found, key=lambda probe: seconds[probe.layout])
        attend_for(self.lm, best.layout, compiled=self.compiled)
        return replace(best, seconds=seconds), problems

    def _tried(self, layout: RowLayout) -> tuple[float, str]:
        """The largest deviation from the oracle, and what is wrong where that is no number."""
        if architecture.windows(self.lm) is None:
            kinds = architecture.settings(self.lm)["layer_types"]
            return float("inf"), f"its attention layers are of a kind without a known mask: {kinds}"
        if layout == "flex" and self.lm.device.type in GRADIENTLESS:
            return float("inf"), "flex attention has no gradient on a CPU"
        try:
            attend_for(self.lm, layout, compiled=self.compiled)
            found = [
                _deviation(_token_logps(self.model, layout, rows, self.multiple), logps, rows)
                for rows, logps in self.oracle
            ]
            # Another kernel, which may not fit a GPU that the forward one fits.
            if layout in ("flex", "flash") and self.trains:
                self._scorer(layout)(self.oracle[0][0]).sums().sum().backward()
        except (
            TypeError,
            ValueError,
            AttributeError,
            RuntimeError,
            KeyError,
        ) as error:  # what models and compilers raise at a mask that they do not take
            return float("inf"), f"no custom mask ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
        return (max(found), "") if np.isfinite(found).all() else (float("inf"), "non-finite log-probs")

    def _seconds(self, layout: RowLayout) -> float:
        """Median of three passes over a full line of rows half as long as the longest, after one that compiles."""
        rows, scorer = _rows_to_time(self.lm, self.longest_row, self.multiple), self._scorer(layout)
        taken: list[float] = []
        try:
            for _ in range(4):
                begun = time.perf_counter()
                if self.trains:
                    scorer(rows).sums().sum().backward()
                    self.model.zero_grad()
                else:
                    with torch.inference_mode():
                        scorer(rows)
                if self.lm.device.type == "cuda":
                    torch.cuda.synchronize()
                taken.append(time.perf_counter() - begun)
        except torch.OutOfMemoryError:
            return float("inf")
        return statistics.median(taken[1:])

    def _scorer(self, layout: RowLayout) -> TokenScorer:
        return TokenScorer(self.model, layout, multiple=self.multiple)


def _rows_to_time(model: PreTrainedModel, longest_row: int, multiple: int) -> list[PromptRow]:
    random, vocabulary = np.random.default_rng(2), model.get_input_embeddings().weight.shape[0]
    tokens = max(8, longest_row // 2)
    count = max(1, SEQUENCE_LENGTHS * multiple // tokens)

    def ids(length: int) -> np.ndarray:
        return random.integers(0, vocabulary, length, dtype=np.int32)

    return [PromptRow(ids(tokens // 2), (ids(tokens // 4), ids(tokens // 4))) for _ in range(count)]


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
def _token_logps(
    model: torch.nn.Module, layout: RowLayout, rows: list[PromptRow], multiple: int = FLEX_BLOCK
) -> Tensor:
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
