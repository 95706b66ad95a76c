"""One optimizer step: micro-batches of pairs, policy columns, the method once on the whole step, gradients back.

A method's gradient reaches the model only through its policy columns. So every process runs the method on the gathered
columns of the global step; autograd on these few vectors gives one gradient column per policy column; and each process
backpropagates sum(gradient * column) over its own micro-batches. Batch-coupled methods (beta-DPO, alpha-DPO) are exact
under any split this way, without a differentiable all-gather.

Dimensions: pairs = the pairs of the whole step, in the order of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from scoreonce.pipeline.batches.device_transfer import index_tensor
from scoreonce.pipeline.batches.microbatches import Batcher, microbatches
from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.head.log_probs import ReferenceDistribution
from scoreonce.pipeline.head.token_scores import CachedTokens, Routing, TokenScores
from scoreonce.pipeline.methods import Method, Outcome
from scoreonce.pipeline.training.policy_columns import PolicyColumns


@dataclass(frozen=True)
class MicrobatchPlan:
    """Which pairs each process forwards, in which micro-batches.

    Every process has the same number of micro-batches, some perhaps empty: collectives inside the model must match.
    """

    microbatches: tuple[tuple[tuple[int, ...], ...], ...]  # process -> micro-batch -> pairs

    @classmethod
    def of(cls, tokens: Sequence[int], processes: int, budget: int, split: Batcher) -> MicrobatchPlan:
        """Split pairs over processes, longest first to the process with the fewest tokens, then by token budget.

        It depends on the lengths alone, so every process makes the same plan without communication.
        """
        shares: list[list[int]] = [[] for _ in range(processes)]
        load = [0] * processes
        for pair in sorted(range(len(tokens)), key=lambda index: -tokens[index]):
            lightest = load.index(min(load))
            shares[lightest].append(pair)
            load[lightest] += tokens[pair]
        batches = [
            [[share[i] for i in batch] for batch in split([tokens[p] for p in share], budget)] for share in shares
        ]
        most = max(len(own) for own in batches)
        return cls(tuple(tuple(tuple(batch) for batch in own + [[]] * (most - len(own))) for own in batches))


class Forwarded(NamedTuple):
    """What a micro-batch's forward pass gives."""

    columns: dict[str, Float64[Tensor, "pairs"]]  # of the micro-batch's pairs; gradients flow
    routing: Routing | None  # where an auxiliary loss of routers is asked for; gradients flow


@dataclass(frozen=True)
class Collectives:
    """The distributed operations of a step; the defaults are for one process."""

    index: int = 0
    count: int = 1  # DDP averages gradients over processes, and a step needs their sum
    gather: Callable[[Tensor], Tensor] = lambda column: column  # sum over processes; each filled in its own pairs
    backward: Callable[[Tensor], None] = lambda loss: loss.backward()
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext


def column_gradients(
    method: Method, columns: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[Outcome, dict[str, Float64[Tensor, "pairs"]]]:
    """Run a method and differentiate sum(weight) times its loss by each policy column: (pairs,) float64 each."""
    leaves = {name: columns[name].detach().requires_grad_() for name in sorted(method.differentiable)}
    outcome = method.run({**columns, **leaves}, dict(state))
    names = list(leaves)
    total = outcome.total
    if not total.requires_grad:  # every pair is filtered out, or the loss has no policy term
        return outcome, {name: torch.zeros_like(leaves[name]) for name in names}
    gradients = torch.autograd.grad(total, [leaves[name] for name in names], allow_unused=True)
    return outcome, {
        name: torch.zeros_like(leaves[name]) if gradient is None else gradient
        for name, gradient in zip(names, gradients, strict=True)
    }


@dataclass(frozen=True)
class Step:
    """Forward and backward of one step; gradients are left on the parameters, the optimizer is the caller's.

    `rows` are the step's prompt rows, one per pair, each with the completions that the method reads, chosen first.
    `columns` are the step's cached columns, each (pairs,) or 0-d, on the scorer's device.
    """

    scorer: Callable[..., TokenScores]  # a TokenScorer, perhaps wrapped
    parameters: Sequence[Tensor]
    method: Method
    processes: Collectives = Collectives()
    # The reference's next-token distributions at a micro-batch's completion tokens, for methods that need them.
    reference: Callable[[Sequence[PromptRow]], ReferenceDistribution] | None = None
    # What is cached of a micro-batch's completion tokens, for methods that need it token by token.
    cached: Callable[[Sequence[PromptRow]], CachedTokens] | None = None
    share: float = 1.0  # of these pairs' loss in what the optimizer minimises
    split: Batcher = microbatches  # how the layout's rows are grouped
    router_loss: float = 0.0  # coefficient of the auxiliary loss of routers, whose routing the scorer then gives
    noisy: bool = False  # the scorer draws noise from its rows: where it runs them again, all of them

    def __call__(
        self, rows: Sequence[PromptRow], columns: Mapping[str, Tensor], state: Mapping[str, Tensor], budget: int
    ) -> tuple[Outcome, dict[str, Tensor]]:
        """Leave d loss / d parameter in `.grad`; return the method's outcome on the whole step, and its columns.

        loss = sum(weight * losses) / sum(weight) over the step, however it is split; the auxiliary loss of routers, if
        any, is of all positions of the step, and added to it.
        """
        own = self._own(rows, budget)
        # One micro-batch needs no second forward pass either way, and this way its weights are exact from the start.
        coupled = self.method.batch_coupled or self.router_loss > 0
        run = self._columns_first if len(own) == 1 or coupled else self._pair_by_pair
        return run(rows, own, columns, state)

    @torch.no_grad()
    def columns_of(self, rows: Sequence[PromptRow], asked: PolicyColumns, budget: int) -> dict[str, Tensor]:
        """The `asked` policy columns of rows, each (pairs,) float64 and the same on every process, without gradient."""
        own = self._own(rows, budget)
        return self._gathered(len(rows), own, [self._forward(rows, pairs, asked).columns for pairs in own])

    def batches(self, rows: Sequence[PromptRow], budget: int) -> list[list[PromptRow]]:
        """The rows of this process's micro-batches, as `reference` will be asked for them."""
        asked = PolicyColumns.of(self.method.reads)
        return [[row.present() for row in _chosen(rows, pairs, asked)] for pairs in self._own(rows, budget)]

    def _own(self, rows: Sequence[PromptRow], budget: int) -> tuple[tuple[int, ...], ...]:
        """The micro-batches of this process."""
        plan = MicrobatchPlan.of([row.tokens for row in rows], self.processes.count, budget, self.split)
        return plan.microbatches[self.processes.index]

    def _columns_first(
        self,
        rows: Sequence[PromptRow],
        own: Sequence[Sequence[int]],
        columns: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
    ) -> tuple[Outcome, dict[str, Tensor]]:
        """For losses that depend on other pairs: make all columns, run the method, then backpropagate.

        The graph of the first micro-batch is kept for its backward pass; the others are forwarded again.
        """
        asked = PolicyColumns.of(self.method.reads)
        first, *others = own
        with self._sync(last=not others):
            kept = self._forward(rows, first, asked)
        with torch.no_grad():
            made = [kept, *(self._forward(rows, pairs, asked) for pairs in others)]
        everything = {**columns, **self._gathered(len(rows), own, [forward.columns for forward in made])}
        outcome, gradients = column_gradients(self.method, everything, state)
        total, routing = outcome.weight.sum(), self._whole_routing(own, made)
        if routing is not None:
            everything["router_aux_loss"] = routing.loss()
        # The mismatched completion has no gradient, and its column is known by now; its routing has one.
        again = asked if routing or self.noisy else asked.without_mismatched()
        with self._sync(last=not others):
            self._backward(kept, first, gradients, total, routing)
        for number, pairs in enumerate(others, start=1):
            with self._sync(last=number == len(others)):
                self._backward(self._forward(rows, pairs, again), pairs, gradients, total, routing)
        return outcome, everything

    def _pair_by_pair(
        self,
        rows: Sequence[PromptRow],
        own: Sequence[Sequence[int]],
        columns: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
    ) -> tuple[Outcome, dict[str, Tensor]]:
        """For losses of a pair alone: one forward pass, backward at once, and at the end divide by the weights' sum."""
        asked = PolicyColumns.of(self.method.reads)
        count = torch.tensor(len(rows), dtype=torch.float64)
        made = []
        for number, pairs in enumerate(own, start=1):
            with self._sync(last=number == len(own)):
                forward = self._forward(rows, pairs, asked)
                made.append({name: column.detach() for name, column in forward.columns.items()})
                gradients: dict[str, Tensor] = {}
                if pairs:
                    gradients = column_gradients(self.method, {**_select(columns, pairs), **made[-1]}, state)[1]
                self._backward(forward, range(len(pairs)), gradients, count)
        everything = {**columns, **self._gathered(len(rows), own, made)}
        with torch.no_grad():
            outcome = self.method.run(everything, dict(state))
        total = float(outcome.weight.sum())
        if total not in (0.0, float(len(rows))):
            torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], len(rows) / total)
        return outcome, everything

    def _forward(self, rows: Sequence[PromptRow], pairs: Sequence[int], asked: PolicyColumns) -> Forwarded:
        """Policy columns of a micro-batch: (pairs of the micro-batch,) float64 each; gradients flow."""
        chosen = _chosen(rows, pairs, asked)
        present = [row.present() for row in chosen]
        reference = self.reference(present) if self.reference else None
        scored = self.scorer(present, statistics=asked.reads("statistics"), reference=reference)
        if self.cached is not None:
            scored = scored._replace(cached=self.cached(present))
        routing = scored.routing if self.router_loss else None
        lengths = [len(completion) for row in chosen for completion in row.completions]
        if 0 in lengths:  # the sum of a completion that is not there is 0
            scored = scored._replace(lengths=torch.tensor(lengths, device=scored.lengths.device))
        return Forwarded(asked.from_scores(scored), routing)

    def _gathered(
        self, pairs_in_step: int, own: Sequence[Sequence[int]], forwards: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The policy columns of the whole step, from every process's micro-batches, without gradient."""
        names = list(forwards[0])
        whole = torch.zeros(len(names), pairs_in_step, dtype=torch.float64, device=forwards[0][names[0]].device)
        for pairs, forward in zip(own, forwards, strict=True):
            if pairs:
                made = torch.stack([forward[name].detach() for name in names])
                whole.index_copy_(1, index_tensor(pairs, whole.device), made)
        return dict(zip(names, self.processes.gather(whole), strict=True))

    def _whole_routing(self, own: Sequence[Sequence[int]], forwards: Sequence[Forwarded]) -> Routing | None:
        """How routers shared all positions of the step, from every process's micro-batches, without gradient."""
        # A process without pairs left forwards one all the same; that one does not count.
        flat = [
            torch.cat([forward.routing.counts, forward.routing.probabilities.detach(), forward.routing.positions[None]])
            * bool(pairs)
            for pairs, forward in zip(own, forwards, strict=True)
            if forward.routing is not None
        ]
        if not flat:
            return None
        whole = self.processes.gather(torch.stack(flat).sum(0))
        counts, probabilities, positions = whole.tensor_split((len(whole) // 2, -1))
        return Routing(counts, probabilities, positions[0])

    def _backward(
        self,
        forward: Forwarded,
        pairs: Sequence[int],
        gradients: Mapping[str, Tensor],
        normaliser: Tensor,
        routing: Routing | None = None,
    ) -> None:
        scale = self.share * self.processes.count / normaliser.clamp(min=torch.finfo(torch.float64).tiny)
        own = _select(gradients, pairs)
        terms = [
            (own[name] * scale * column).sum() if pairs else (0 * column).sum()
            for name, column in forward.columns.items()
            if name in self.method.differentiable
        ]
        if routing is not None and forward.routing is not None:
            # Of the sums of the step, those of this micro-batch have a gradient.
            balance = routing._replace(probabilities=forward.routing.probabilities).loss()
            terms.append(self.router_loss * self.share * self.processes.count * balance * bool(pairs))
        self.processes.backward(torch.stack(terms).sum())

    def _sync(self, *, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last else self.processes.no_sync()


def _chosen(rows: Sequence[PromptRow], pairs: Sequence[int], asked: PolicyColumns) -> list[PromptRow]:
    """The rows of a micro-batch with the completions that are asked for."""
    # A process without pairs left forwards the shortest pair, with a gradient of zero.
    chosen = [rows[pair] for pair in pairs] or [min(rows, key=lambda row: row.tokens)]
    return [PromptRow(row.prompt, row.completions[: len(asked.completions)]) for row in chosen]


def _select(columns: Mapping[str, Tensor], pairs: Sequence[int]) -> dict[str, Tensor]:
    """Columns (pairs,) at some pairs; a number that all pairs share, 0-d, stays as it is."""
    devices = {column.device for column in columns.values()}
    indices = {device: index_tensor(pairs, device) for device in devices}
    return {
        name: column.index_select(0, indices[column.device]) if column.ndim else column
        for name, column in columns.items()
    }


def slices(count: int, pairs: int) -> list[slice]:
    """The parts of a step of `count` pairs, of `pairs` consecutive ones each."""
    return [slice(start, start + pairs) for start in range(0, count, pairs)]


def in_parts(
    step: Step,
    rows: Sequence[PromptRow],
    columns: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    budget: int,
    pairs: int,
) -> tuple[Outcome, dict[str, Tensor]]:
    """One optimizer step as the papers' code takes it: each `pairs` consecutive pairs are a batch of their own.

    Statistics move once per part, its loss is its own mean, and the parts' losses are averaged.
    """
    parts = slices(len(rows), pairs)
    part, outcomes, made = replace(step, share=1 / len(parts)), [], []
    for own in parts:
        cached = {name: column[own] if column.ndim else column for name, column in columns.items()}
        outcome, everything = part(rows[own], cached, state, budget)
        state = outcome.state
        outcomes.append(outcome)
        made.append(everything)
    columns = _concatenated(made)
    if "router_aux_loss" in columns:
        columns["router_aux_loss"] = torch.stack([part["router_aux_loss"] for part in made]).mean()
    return _joined(outcomes), columns


def _joined(parts: Sequence[Outcome]) -> Outcome:
    columns = [field.name for field in fields(Outcome) if field.name not in ("state", "reduced")]
    reduced = None if parts[0].reduced is None else torch.stack([part.loss for part in parts]).mean()
    joined = _concatenated([{name: vars(part)[name] for name in columns} for part in parts])
    return Outcome(**joined, state=parts[-1].state, reduced=reduced)


def _concatenated(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        name: torch.cat([part[name] for part in parts]) if column.ndim else column for name, column in parts[0].items()
    }
