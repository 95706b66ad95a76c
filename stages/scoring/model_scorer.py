"""A loaded model that scores prompt rows: the tensor side of `score` and `evaluate`. No tables here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scoreonce.pipeline.attention.cpu_matmul import lay_out_for_forward
from scoreonce.pipeline.batches import continued_rows
from scoreonce.pipeline.batches.device_transfer import read_later
from scoreonce.pipeline.batches.microbatches import batcher_for
from scoreonce.pipeline.batches.prompt_rows import PromptRow, RowLayout, padded, sequence_multiple
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.layout_probe import Probe
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.head.log_probs import Head, StateError, TopK, state_error, top_k
from scoreonce.pipeline.head.token_scores import sum_per_completion
from scoreonce.stages.common.gpu_memory import enough_gpu_memory
from scoreonce.stages.memory.huge_pages import move_to_huge_pages
from scoreonce.stages.models.forward_record import provenance_of
from scoreonce.stages.models.loading import load_reference, require_fit, resolve_device
from scoreonce.stages.sharded.layout import agreed_layout
from scoreonce.stages.sharded.processes import mesh_of

if TYPE_CHECKING:
    from scoreonce.stages.config import Compute, Reference

# Called with the completions and positions of each finished micro-batch: it moves the progress bar.
Advance = Callable[[int, int], None]


class CompletionScores(NamedTuple):
    """Scores of the completions of some prompt rows, in their order."""

    token_logps: npt.NDArray[np.float32]  # (tokens,) nats, one completion after the other
    lengths: npt.NDArray[np.int64]  # (completions,) tokens
    logps: npt.NDArray[np.float64]  # (completions,) nats, summed
    entropy: npt.NDArray[np.float64]  # (completions,) nats, summed
    collision_logps: npt.NDArray[np.float64]  # (completions,) nats, summed
    top1_hits: npt.NDArray[np.int32]  # (completions,)


class ScoredRows(NamedTuple):
    """Scores of some prompt rows and, where they were asked for, the hidden states that predict each token."""

    scores: CompletionScores
    hidden: Tensor | None  # (tokens, d), on the CPU, in the model's dtype


@dataclass(frozen=True)
class ModelScorer:
    """A loaded model, and the layout of prompt rows that the probe found exact for it.

    A sharded model has its whole `output_head` beside it, and every process takes part in each forward pass.
    """

    scorer: TokenScorer
    probe: Probe
    budget: int
    output_head: Head | None = None
    compiled: bool = False  # the blocks

    @property
    def sharded(self) -> bool:
        """Whether each process has a part of the model."""
        return self.output_head is not None

    @property
    def device(self) -> torch.device:
        """Where it computes, which is not where an offloaded model is."""
        return self.head().weight.device

    @classmethod
    def load(
        cls,
        reference: Reference,
        compute: Compute,
        *,
        longest_row: int,
        longest_sequence: int,
        largest_token: int,
        first: RowLayout | None = None,
    ) -> ModelScorer:
        """Load a model and probe which layout of prompt rows is exact for it: on the first process, for all of them.

        `first` is the layout of the scores that these belong to, if there are some.

        Raises `InputError`, before any forward, where a token id lies outside the vocabulary or a sequence is longer
        than the table of absolute positions.
        """
        device = resolve_device(compute.device)
        if (mesh := mesh_of(compute, device)) is not None:
            from scoreonce.stages.sharded.scoring import sharded_reference

            scorer, found, head = sharded_reference(
                reference,
                compute,
                mesh,
                device,
                longest_row=longest_row,
                longest_sequence=longest_sequence,
                largest_token=largest_token,
                first=first,
            )
            return cls(scorer, found, compute.budget(device.type), head, compute.compile)
        model = load_reference(reference, device)
        require_fit(model, reference.model, largest_token=largest_token, longest_sequence=longest_sequence)
        budget = compute.budget(device.type)
        multiple = sequence_multiple(budget)
        move_to_huge_pages(model)
        lay_out_for_forward(architecture.causal_lm(model))
        # The only place that asks for it: nothing trains, and no process waits for another in a forward pass.
        probe = agreed_layout(
            model, compute.attention, longest_row, multiple, compiled=compute.compile, first=first, continues=True
        )
        return cls(TokenScorer(model, probe.layout, multiple=multiple), probe, budget, compiled=compute.compile)

    def score(self, rows: Sequence[PromptRow], advance: Advance, *, keep_hidden: bool = False) -> ScoredRows:
        """Score every completion of `rows`. Raises `InputError` where GPU memory runs out."""
        laid_out = self._laid_out(rows)
        scored: list[ScoredRows | None] = [None] * len(laid_out)
        started: list[tuple[list[int], Callable[[], list[ScoredRows]]]] = []

        def finish() -> None:
            batch, read = started.pop(0)
            for index, part in zip(batch, read(), strict=True):
                scored[index] = part
            advance(
                sum(len(laid_out[index].completions) for index in batch), sum(laid_out[index].tokens for index in batch)
            )

        batches = self._batches(laid_out)
        others = self._most(len(batches)) - len(batches)
        for batch in batches:
            started.append((batch, self._start([laid_out[index] for index in batch], keep_hidden)))
            if len(started) > 1:  # read one back while the GPU computes the next
                finish()
        while started:
            finish()
        self._take_part(others, rows)
        parts = [part for part in scored if part is not None]
        columns = zip(*(part.scores for part in parts), strict=True)
        hidden = [part.hidden for part in parts if part.hidden is not None]
        return ScoredRows(
            CompletionScores(*(np.concatenate(column) for column in columns)), torch.cat(hidden) if hidden else None
        )

    def keep_up(self, rows: Sequence[PromptRow]) -> None:
        """Take part in the forward passes of a shard that the other processes score; some of `rows` go through them."""
        self._take_part(self._most(0), rows)

    def _take_part(self, passes: int, rows: Sequence[PromptRow]) -> None:
        shortest = min(self._laid_out(rows), key=lambda row: row.tokens)
        for _ in range(passes):
            self._start([shortest], False)()

    def _most(self, passes: int) -> int:
        """The forward passes of the process that makes the most; of a model that is not sharded this process's own."""
        if not self.sharded:
            return passes
        from scoreonce.stages.sharded.scoring import most

        return most(passes, self.device)

    def positions_per_second(self, rows: Sequence[PromptRow], seconds: float) -> float:
        """Measured speed in positions of prompt rows, whatever the layout: micro-batches for about `seconds`."""
        laid_out = self._laid_out(rows)
        lengths = [row.tokens for row in laid_out]
        batches = self._batches(laid_out)
        middle, done, start = len(batches) // 2, 0, time.perf_counter()
        for batch in batches[middle:] + batches[:middle]:  # of medium length first: they are typical
            self._start([laid_out[index] for index in batch], False)()
            done += sum(lengths[index] for index in batch)
            if not self._most(int(time.perf_counter() - start <= seconds)):  # of a sharded model, all go on or none
                break
        repeated = sum(lengths) / sum(row.tokens for row in rows)  # prompts, once per completion in the padded layout
        return done / repeated / (time.perf_counter() - start)

    def head(self) -> Head:
        """The model's output head."""
        return self.output_head or architecture.head_of(architecture.causal_lm(self.scorer.model))

    def top_k(self, hidden: Tensor, k: int) -> TopK:
        """The largest log-probs of each token, from the hidden states that `score` kept, on the CPU."""
        return TopK(*(column.cpu() for column in top_k(hidden.to(self.device), self.head(), k)))

    def state_error(self, hidden: Tensor, approximate: Tensor, targets: Tensor) -> StateError:
        """How far approximate hidden states are off at each token, on the CPU."""
        exact, near, tokens = (tensor.to(self.device) for tensor in (hidden, approximate, targets))
        return StateError(*(column.cpu() for column in state_error(exact, near, self.head(), tokens)))

    def provenance(self) -> dict[str, Any]:
        """What the numbers were computed with; recorded beside them, not part of the store's key."""
        model = architecture.causal_lm(self.scorer.model)
        return {
            **provenance_of(model, self.probe.layout, self.device, compiled=self.compiled),
            "probe_deviation": self.probe.deviation,
            # Infinite where memory ran out; JSON has no infinity.
            "probe_seconds": {layout: s if math.isfinite(s) else None for layout, s in self.probe.seconds.items()},
            "tokens_per_microbatch": self.budget,
            "sharded": self.sharded,
        }

    def _laid_out(self, rows: Sequence[PromptRow]) -> Sequence[PromptRow]:
        if self.probe.layout == "continued":
            return continued_rows.laid_out(rows, self.budget)
        return padded(rows) if self.probe.layout == "padded" else rows

    def _batches(self, laid_out: Sequence[PromptRow]) -> list[list[int]]:
        if self.probe.layout == "continued":
            return continued_rows.continued_microbatches(laid_out, self.budget)
        return batcher_for(self.probe.layout)([row.tokens for row in laid_out], self.budget)

    def _start(self, rows: list[PromptRow], keep_hidden: bool) -> Callable[[], list[ScoredRows]]:
        """Start scoring a micro-batch; the function returned waits for it and gives the scores of each row."""
        # What a sharded model gathers in inference mode it could not free.
        no_gradient = torch.no_grad() if self.sharded else torch.inference_mode()
        enough = enough_gpu_memory(
            "finished shards stay",
            where=f"a micro-batch of {sum(row.tokens for row in rows):,} tokens",
            fix=f"Run again with a smaller budget, e.g. --set compute.tokens_per_microbatch={self.budget // 2}.",
        )
        with no_gradient, enough:
            scored = self.scorer(rows, statistics=True, keep_hidden=keep_hidden)
            lengths = scored.lengths
            sums = (scored.sums(), *(sum_per_completion(column, lengths) for column in scored.statistics))
            kept = () if scored.hidden is None else (scored.hidden,)
            read = read_later([scored.token_logps, lengths, *sums, *kept])
        return lambda: _by_row(rows, read(), keep_hidden)


def _by_row(rows: list[PromptRow], columns: list[Tensor], keep_hidden: bool) -> list[ScoredRows]:
    hidden = columns.pop() if keep_hidden else None
    token_logps, *per_completion = (_numpy(column) for column in columns)
    per_completion[-1] = per_completion[-1].astype(np.int32)
    ends = np.cumsum([len(row.completions) for row in rows])[:-1]
    token_ends = np.cumsum([sum(map(len, row.completions)) for row in rows])[:-1]
    scores = map(
        CompletionScores, np.split(token_logps, token_ends), *(np.split(column, ends) for column in per_completion)
    )
    states = [None] * len(rows) if hidden is None else hidden.tensor_split(torch.from_numpy(token_ends))
    return list(map(ScoredRows, scores, states))


def _numpy(tensor: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.numpy()
    return array
