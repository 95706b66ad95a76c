"""One optimizer step: micro-batches of pairs, policy columns, the method once on the whole step, gradients back.

A method's gradient reaches the model only through its policy columns. So the method runs on the gathered columns of
the global step, the same on every process; autograd on those few vectors gives one gradient column per policy column;
each process backpropagates sum(gradient * column) over its own micro-batches. Batch-coupled methods (beta-DPO,
alpha-DPO) are exact under any split this way, without a differentiable all-gather.

Dimensions: pairs = the pairs of the whole step, in the order of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from scoreonce.pipeline.batches.device_transfer import index_tensor
from scoreonce.pipeline.batches.microbatches import Batcher, microbatches
from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward.head import ReferenceDistribution
from scoreonce.pipeline.forward.scorer import TokenScores
from scoreonce.pipeline.methods import Method, Outcome
from scoreonce.pipeline.training.policy_columns import KL_LOGPS, STATISTICS, kinds, made_here, policy_columns, sides_of


@dataclass(frozen=True)
class MicrobatchPlan:
    """Which pairs each process forwards, in which micro-batches. The same number of micro-batches for everyone.

    An empty micro-batch fills up a process that has fewer: collectives inside the model must match.
    """

    microbatches: tuple[tuple[tuple[int, ...], ...], ...]  # process -> micro-batch -> pairs

    @classmethod
    def of(cls, tokens: Sequence[int], processes: int, budget: int, split: Batcher) -> MicrobatchPlan:
        """Split pairs over processes by token count, longest first to whoever has least, then by token budget.

        Depends on the lengths alone, so every process makes the same plan without asking.
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


@dataclass(frozen=True)
class Collectives:
    """What a step needs of its distributed surroundings; the defaults are one process."""

    index: int = 0
    count: int = 1  # DDP averages gradients over them; the step wants sums
    gather: Callable[[Tensor], Tensor] = lambda column: column  # sum over processes of a tensor that others left at 0
    backward: Callable[[Tensor], None] = lambda loss: loss.backward()
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext


def column_gradients(
    method: Method, columns: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[Outcome, dict[str, Tensor]]:
    """Run a method and differentiate sum(weight * losses) by each policy column: (pairs,) float64 each."""
    leaves = {name: columns[name].detach().requires_grad_() for name in sorted(method.differentiable)}
    outcome = method.run({**columns, **leaves}, dict(state))
    names = list(leaves)
    total = (outcome.weight * outcome.losses).sum()
    if not total.requires_grad:  # every pair filtered out or a loss without a policy term
        return outcome, {name: torch.zeros_like(leaves[name]) for name in names}
    gradients = torch.autograd.grad(total, [leaves[name] for name in names], allow_unused=True)
    return outcome, {
        name: torch.zeros_like(leaves[name]) if gradient is None else gradient
        for name, gradient in zip(names, gradients, strict=True)
    }


@dataclass(frozen=True)
class Step:
    """Forward and backward of one step; gradients are left on the parameters, the optimizer is the caller's.

    `rows` are the step's prompt rows, one a pair: its completions are the sides that the method reads, chosen first.
    `columns` are the step's cached columns, each (pairs,) or 0-d, on the scorer's device.
    """

    scorer: Callable[..., TokenScores]  # a TokenScorer, perhaps wrapped
    parameters: Sequence[Tensor]
    method: Method
    processes: Collectives = Collectives()
    reference: Callable[[Sequence[PromptRow]], ReferenceDistribution] | None = (
        None  # for methods of the whole vocabulary
    )
    share: float = 1.0  # of these pairs' loss in what the optimizer descends
    split: Batcher = microbatches  # how the layout's rows are grouped

    def __call__(
        self, rows: Sequence[PromptRow], columns: Mapping[str, Tensor], state: Mapping[str, Tensor], budget: int
    ) -> tuple[Outcome, dict[str, Tensor]]:
        """Leave d loss / d parameter in `.grad`; return what the method made of the whole step, and its columns.

        loss = sum(weight * losses) / sum(weight) over the step, however it is split.
        """
        plan = MicrobatchPlan.of([row.tokens for row in rows], self.processes.count, budget, self.split)
        own = plan.microbatches[self.processes.index]
        if len(own) == 1 or self.method.batch_coupled:
            return self._columns_first(rows, own, columns, state)
        return self._pair_by_pair(rows, own, columns, state)

    def _columns_first(
        self,
        rows: Sequence[PromptRow],
        own: Sequence[Sequence[int]],
        columns: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
    ) -> tuple[Outcome, dict[str, Tensor]]:
        """A pair's loss depends on the others: all columns come first. One micro-batch's graph is kept for backward,
        the others are forwarded again; so a step of one micro-batch pays no second forward.
        """
        kept, *others = own
        with self._sync(last=not others):
            forward = self._forward(rows, kept)
        with torch.no_grad():
            ahead = [self._forward(rows, pairs) for pairs in others]
        everything = {**columns, **self._gathered(len(rows), own, [forward, *ahead])}
        outcome, gradients = column_gradients(self.method, everything, state)
        with self._sync(last=not others):
            self._backward(forward, kept, gradients, outcome.weight.sum())
        for number, pairs in enumerate(others, start=1):
            with self._sync(last=number == len(others)):
                forward = self._forward(rows, pairs, without=frozenset({KL_LOGPS}))  # known, and without gradient
                self._backward(forward, pairs, gradients, outcome.weight.sum())
        return outcome, everything

    def _pair_by_pair(
        self,
        rows: Sequence[PromptRow],
        own: Sequence[Sequence[int]],
        columns: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
    ) -> tuple[Outcome, dict[str, Tensor]]:
        """No pair's loss depends on another's: one forward, and the weights are divided out at the end."""
        forwards = []
        for number, pairs in enumerate(own, start=1):
            with self._sync(last=number == len(own)):
                forward = self._forward(rows, pairs)
                forwards.append({name: column.detach() for name, column in forward.items()})
                part = _part(columns, pairs)
                gradients: dict[str, Tensor] = {}
                if pairs:
                    gradients = column_gradients(self.method, {**part, **forwards[-1]}, state)[1]
                self._backward(forward, range(len(pairs)), gradients, torch.tensor(len(rows), dtype=torch.float64))
        everything = {**columns, **self._gathered(len(rows), own, forwards)}
        with torch.no_grad():
            outcome = self.method.run(everything, dict(state))
        total = float(outcome.weight.sum())
        if total not in (0.0, float(len(rows))):
            torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], len(rows) / total)
        return outcome, everything

    def _forward(
        self, rows: Sequence[PromptRow], pairs: Sequence[int], without: frozenset[str] = frozenset()
    ) -> dict[str, Tensor]:
        """Policy columns of a micro-batch: (pairs of the micro-batch,) float64 each; gradients flow."""
        reads = self.method.reads - without
        sides = sides_of(reads)
        # A filler forwards the shortest pair, and its gradient is zero.
        shown = [rows[pair] for pair in pairs] or [min(rows, key=lambda row: row.tokens)]
        shown = [PromptRow(row.prompt, row.completions[: len(sides)]) for row in shown]
        names = made_here(reads)
        scored = self.scorer(
            shown,
            statistics=bool(kinds(names) & STATISTICS),
            reference=self.reference(shown) if self.reference else None,
        )
        return policy_columns(scored, sides, names)

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

    def _backward(
        self, forward: Mapping[str, Tensor], pairs: Sequence[int], gradients: Mapping[str, Tensor], normaliser: Tensor
    ) -> None:
        scale = self.share * self.processes.count / normaliser.clamp(min=torch.finfo(torch.float64).tiny)
        own = _part(gradients, pairs)
        terms = [
            (own[name] * scale * column).sum() if pairs else (0 * column).sum()
            for name, column in forward.items()
            if name in self.method.differentiable
        ]
        self.processes.backward(torch.stack(terms).sum())

    def _sync(self, *, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last else self.processes.no_sync()


def _part(columns: Mapping[str, Tensor], pairs: Sequence[int]) -> dict[str, Tensor]:
    """Some pairs' values of columns (pairs,); numbers that all pairs share stay what they are."""
    devices = {column.device for column in columns.values()}
    here = {device: index_tensor(pairs, device) for device in devices}
    return {
        name: column.index_select(0, here[column.device]) if column.ndim else column for name, column in columns.items()
    }


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
    starts = range(0, len(rows), pairs)
    part, done = replace(step, share=1 / len(starts)), []
    for start in starts:
        here = slice(start, start + pairs)
        own = {name: column[here] if column.ndim else column for name, column in columns.items()}
        outcome, everything = part(rows[here], own, state, budget)
        state = outcome.state
        done.append((outcome, everything))
    return _joined([outcome for outcome, _ in done]), _concatenated([everything for _, everything in done])


def _joined(parts: Sequence[Outcome]) -> Outcome:
    columns = [field.name for field in fields(Outcome) if field.name != "state"]
    return Outcome(
        **_concatenated([{name: vars(part)[name] for name in columns} for part in parts]), state=parts[-1].state
    )


def _concatenated(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        name: torch.cat([part[name] for part in parts]) if column.ndim else column for name, column in parts[0].items()
    }
