"""Which layout of the forward pass is exact for a model, found out by running it and not from a list of names.

Some attention implementations silently ignore or misread a 4-D mask (off by 0.3 to 0.7 in the logits), others refuse
it, and state-space layers have no use for one. So before any work, random rows go through the model's own logits, the
padded layout and the faster ones. Only a layout that agrees is used; of several, the fastest by the clock.
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
from scoreonce.pipeline.attention.language_model import attention_of, language_model
from scoreonce.pipeline.attention.last_layer import (
    compute_all_output,
    computes_all_output,
    restore_attention,
    skip_unused_output,
)
from scoreonce.pipeline.batches.layouts import FORWARD_ONLY, candidates
from scoreonce.pipeline.batches.prompt_rows import FLEX_BLOCK, PromptRow, RowLayout
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.head_probe import understand_head
from scoreonce.pipeline.forward.probe_rows import rows_past_the_window, rows_to_continue, rows_to_time, short_rows
from scoreonce.pipeline.forward.rotary import RotaryLengths
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.schemas.errors import InputError

# Largest mean deviation of a completion, in nats per token: far above rounding, far below the effect of a wrong mask.
LAYOUT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 1e-9}
NOT_CONTINUED = "completions go on from a cache only where a whole model is scored"


@dataclass(frozen=True)
class Probe:
    """The layout to use, its deviation from the padded one (nats per token), and why it is not a faster one."""

    layout: RowLayout
    deviation: float
    reason: str = ""
    seconds: Mapping[RowLayout, float] = field(default_factory=dict)  # of a full sequence, where several were timed


Oracle = list[tuple[list[PromptRow], Tensor]]  # rows and the log-probs of their tokens in the padded layout


def choose_layout(
    model: torch.nn.Module,
    requested: Literal["auto"] | RowLayout,
    longest_row: int,
    multiple: int = FLEX_BLOCK,
    *,
    compiled: bool = False,
    trains: bool = False,
    continues: bool = False,
    first: RowLayout | None = None,
) -> Probe:
    """Try layouts on `model` with random rows, and with rows of `longest_row` positions where these differ.

    They do if a sliding window is shorter, or the usual frequencies of rotary positions end before.

    "auto" takes the first exact one of: packed rows (on a GPU by block masks or variable-length attention, whichever
    is faster), the shared layout, the continued one where the caller `continues`, the padded one. `first`, in which
    other scores were computed, goes before them, though another may be faster: log-probs that are subtracted have the
    same rounding then; in the place of the continued layout the padded one. After "flex" or "flash" the model's
    attention stays replaced; for "flex" its blocks are `compiled` on request, and sequences are padded to a multiple of
    `multiple`. For a model that `trains` the backward pass is tried too. Raises `InputError` if the model's head is not
    understood, if the model is not causal, if it does not give the same in a padded batch as alone, and if the
    requested layout is not exact.
    """
    lm = architecture.causal_lm(model)
    understand_head(lm)
    short, tolerance = short_rows(lm), LAYOUT_TOLERANCE[lm.dtype]
    padded = _token_logps(model, "padded", short)
    _require_causal(model, short, padded)
    batch_deviation = _deviation(padded, _own_token_logps(lm, short), short)
    # Models round their own logits to bfloat16 and our head does not, so allow for more.
    if not batch_deviation <= 5 * tolerance:
        raise _not_as_alone(lm, f"{batch_deviation:.2e} nats per token apart, more than {5 * tolerance:.0e}")
    if requested == "padded":
        return Probe("padded", batch_deviation, "asked for")
    if requested == "auto" and first == "padded":
        return Probe("padded", batch_deviation, "as scored")
    if requested == "auto" and first == "continued" and not continues:
        return Probe("padded", batch_deviation, NOT_CONTINUED)
    oracle = [(short, padded)]
    if long := rows_past_the_window(lm, longest_row):
        oracle.append((long, _token_logps(model, "padded", long)))
    trials = _Trials(model, lm, oracle, tolerance + 5 * batch_deviation, longest_row, multiple, compiled, trains)
    groups = _candidates(lm, compiled=compiled, continues=continues) if requested == "auto" else ((requested,),)
    reasons: list[str] = []
    if requested == "auto" and first is not None:
        if any(first in group for group in groups):
            groups = ((first,), *(tuple(layout for layout in group if layout != first) for group in groups))
        else:
            blocks = ", compiled" if compiled else ""
            reasons.append(f"{first}: not for {type(lm).__name__} on {lm.device.type}{blocks}")
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
    return Probe("padded", batch_deviation, "; ".join(reasons))


def _not_as_alone(model: PreTrainedModel, found: str) -> InputError:
    if language_model(model) is not model:
        return InputError(
            f"The language model of {type(model).__name__} computes other log-probs of text than the whole model.",
            found=found,
            where="the probe before scoring",
            fix="Use another model: scoreonce trains models of images or audio by their language model alone.",
        )
    return InputError(
        f"{type(model).__name__} computes other log-probs in a padded batch than for a sequence alone.",
        found=found,
        where="the probe before scoring",
        fix="Use another model: what this one computes depends on the sequences beside.",
    )


def _require_causal(model: torch.nn.Module, rows: list[PromptRow], padded: Tensor) -> None:
    """Raise `InputError` if log-probs in the padded layout change when the end of each completion is cut off."""
    lm, parts, first = architecture.causal_lm(model), [], 0
    halves = [PromptRow(row.prompt, tuple(c[: (len(c) + 1) // 2] for c in row.completions)) for row in rows]
    for row, half in zip(rows, halves, strict=True):
        for completion, kept in zip(row.completions, half.completions, strict=True):
            parts.append(padded[first : first + len(kept)])
            first += len(completion)
    deviation = _deviation(torch.cat(parts), _token_logps(model, "padded", halves), halves)
    if not deviation <= 5 * LAYOUT_TOLERANCE[lm.dtype]:
        raise InputError(
            f"{type(lm).__name__} is no causal language model: log-probs depend on the tokens that follow.",
            found=f"they change by {deviation:.1e} nats per token when the end of a completion is cut off",
            where="the probe before scoring",
            fix="Use a decoder. Models of the BERT family are one only with is_decoder = true in config.json.",
        )


def require_same_in_training(model: torch.nn.Module, layout: RowLayout, multiple: int = FLEX_BLOCK) -> None:
    """Raise `InputError` where the modules of `model` in training mode give other log-probs than in evaluation mode.

    The reference is scored in evaluation mode. Gradient checkpointing needs training mode, in which a model may add
    noise of its own.
    """
    training = [module for module in model.modules() if module.training]
    if not training:
        return
    lm = architecture.causal_lm(model)
    rows = short_rows(lm)
    found = _token_logps(model, layout, rows, multiple)
    for module in training:
        module.training = False
    expected = _token_logps(model, layout, rows, multiple)
    for module in training:
        module.training = True
    deviation = _deviation(found, expected, rows)
    if not deviation <= LAYOUT_TOLERANCE[lm.dtype]:
        raise InputError(
            f"{type(lm).__name__} computes other log-probs with gradient checkpointing than the scored ones.",
            found=f"{deviation:.1e} nats per token apart, more than {LAYOUT_TOLERANCE[lm.dtype]:.0e}",
            where="train.gradient_checkpointing",
            fix="Set train.gradient_checkpointing = false.",
        )


def _candidates(model: PreTrainedModel, *, compiled: bool, continues: bool) -> tuple[tuple[RowLayout, ...], ...]:
    """Groups of layouts, fastest first; within a group they are timed."""
    # A cache has one frequency of rotary positions, whatever the length of what goes on from it.
    last: tuple[tuple[RowLayout, ...], ...] = (("continued",),) if continues and not RotaryLengths.of(model) else ()
    return (*candidates(model.device.type, by_rows=architecture.attends_by_rows(model), compiled=compiled), *last)


def replace_attention_for(model: PreTrainedModel, layout: RowLayout, *, compiled: bool = False) -> None:
    """Have a model attend as `layout` wants it. Raises `ValueError` where its attention cannot be replaced."""
    if layout == "flash":
        varlen.switch_on(model)
    if layout == "flex":
        flex.switch_on(model)
        if compiled:
            flex.compile_blocks(model)


@dataclass(frozen=True)
class ProbeOutcome:
    """What was found out by running a model, for other models of its kind: with other weights, or more layers."""

    probe: Probe
    head: architecture.HeadForm
    all_output: bool  # whether the last layer has to compute positions that nothing reads

    @classmethod
    def of(cls, model: torch.nn.Module, probe: Probe) -> ProbeOutcome:
        """Of a model for which `choose_layout` returned `probe`."""
        lm = architecture.causal_lm(model)
        return cls(probe, architecture.form_of(lm), computes_all_output(lm))

    def apply(self, model: torch.nn.Module, *, compiled: bool) -> None:
        """Have `model` compute as the one that was tried."""
        lm = architecture.causal_lm(model)
        architecture.set_head_form(lm, self.head)
        replace_attention_for(lm, self.probe.layout, compiled=compiled)
        if self.all_output:
            skip_unused_output(lm)  # nothing, where that is done: it can be undone only after
            compute_all_output(lm)


@dataclass(frozen=True)
class _Trials:
    """Trying layouts on one model."""

    model: torch.nn.Module
    lm: PreTrainedModel
    oracle: Oracle
    limit: float  # nats per token, the largest deviation of an exact layout from the oracle
    longest_row: int
    multiple: int
    compiled: bool
    trains: bool

    def best_of(self, group: Sequence[RowLayout]) -> tuple[Probe | None, list[str]]:
        """The fastest exact layout, with the model's attention replaced for it, and the problems of the others."""
        found: list[Probe] = []
        problems: list[str] = []
        seconds: dict[RowLayout, float] = {}
        before = attention_of(self.lm)
        for layout in group:
            deviation, problem = self._tried(layout)
            if deviation <= self.limit:
                found.append(Probe(layout, deviation))
                if len(group) == 1:
                    return found[0], []
                seconds[layout] = self._seconds(layout)
            else:
                off = f"differs from padded rows by {deviation:.1e} nats per token"
                problems.append(f"{layout}: {problem or off}")
            restore_attention(self.lm, before)
        if not found:
            return None, problems
        best = min(found, key=lambda probe: seconds[probe.layout])
        replace_attention_for(self.lm, best.layout, compiled=self.compiled)
        return replace(best, seconds=seconds), problems

    def _tried(self, layout: RowLayout) -> tuple[float, str]:
        """The largest deviation from the oracle, and the problem where it could not be measured."""
        if layout != "continued" and architecture.windows(self.lm) is None:
            kinds = architecture.settings(self.lm)["layer_types"]
            return float("inf"), f"its kinds of attention layers have no known mask: {kinds}"
        if layout == "flex" and self.lm.device.type in FORWARD_ONLY:
            return float("inf"), "flex attention has no backward pass on a CPU"
        try:
            replace_attention_for(self.lm, layout, compiled=self.compiled)
            found = self._deviations(layout)
            if layout == "packed" and not max(found) <= self.limit:  # e.g. a last block that attends twice
                compute_all_output(self.lm)
                found = self._deviations(layout)
            # The backward kernel may not fit a GPU that the forward one fits.
            if layout in ("flex", "flash") and self.trains:
                self._scorer(layout)(self.oracle[0][0]).sums().sum().backward()
        except (
            TypeError,
            ValueError,
            AttributeError,
            RuntimeError,
            LookupError,
        ) as error:  # of models and compilers that do not take the mask, and of caches that do not go on
            lacks = "its cache does not go on" if layout == "continued" else "no custom mask"
            return float("inf"), f"{lacks} ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
        finally:
            self.model.zero_grad()  # or the first step of training would add the gradient of these rows to its own
        return (max(found), "") if np.isfinite(found).all() else (float("inf"), "non-finite log-probs")

    def _deviations(self, layout: RowLayout) -> list[float]:
        more = rows_to_continue(self.lm, self.longest_row) if layout == "continued" else []
        oracle = [*self.oracle, *((rows, _token_logps(self.model, "padded", rows)) for rows in more)]
        return [
            _deviation(_token_logps(self.model, layout, rows, self.multiple), logps, rows) for rows, logps in oracle
        ]

    def _seconds(self, layout: RowLayout) -> float:
        """Median of three passes over a full sequence of rows half as long as the longest, after one to compile."""
        rows, scorer = rows_to_time(self.lm, self.longest_row, self.multiple), self._scorer(layout)
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
        finally:
            self.model.zero_grad()
        return statistics.median(taken[1:])

    def _scorer(self, layout: RowLayout) -> TokenScorer:
        return TokenScorer(self.model, layout, multiple=self.multiple)


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
