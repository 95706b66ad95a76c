"""The one forward pass of both stages: token log-probs of the completions of prompt rows.

`score`, `train` and `evaluate` all come here, so that a policy at step 0 equals the cached reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scoreonce.pipeline.attention.cpu_matmul import use_fast_linears
from scoreonce.pipeline.attention.last_layer import answer_where_read
from scoreonce.pipeline.batches.prompt_rows import FLEX_BLOCK, PADDING, Batch, PromptRow, RowLayout, collate
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.head import (
    Perturbed,
    ReferenceDistribution,
    ReferenceLogits,
    TokenStatistics,
    token_columns,
)
from scoreonce.pipeline.forward.token_masks import Masking, TokenMasks


class TokenScores(NamedTuple):
    """All completions of all rows of a micro-batch, row by row, their tokens one after the other."""

    token_logps: Tensor  # (tokens,) float32, nats; gradients flow
    lengths: Tensor  # (completions,) int64
    statistics: TokenStatistics | None = None
    kl: Tensor | None = None  # (tokens,) float32, nats: KL(reference || policy); gradients flow
    reference_logps: Tensor | None = None  # (tokens,) float32, nats; no gradient
    perturbed: Perturbed | None = None
    masks: TokenMasks | None = None  # per token; gradients flow into learnt ones
    hidden: Tensor | None = None  # (tokens, hidden), what predicts each token, in the model's dtype; no gradient

    def sums(self) -> Tensor:
        """`(completions,)` float64 log-probs, summed over each completion's tokens; gradients flow."""
        return sum_per_completion(self.token_logps, self.lengths)


def sum_per_completion(values: Tensor, lengths: Tensor) -> Tensor:
    """`(completions,)` float64 sums of `values` (tokens,), each over its own `lengths` (completions,) tokens."""
    owners = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths, output_size=len(values))
    return torch.zeros(len(lengths), dtype=torch.float64, device=values.device).index_add(0, owners, values.double())


class TokenScorer(nn.Module):
    """A causal language model that answers with token log-probs instead of logits.

    `layout` is "shared" (a prompt and its completions in one line, the prompt computed once), "packed" (several such
    rows in one line), "flex" and "flash" (the same with block masks or as sequences of flash attention; the model's
    attention must be switched by their `switch_on`) or "padded" (each completion a line of its own: the oracle, and the
    way for attention that takes no custom mask). A module of its own, so that DDP wraps body and head together.
    """

    def __init__(
        self, model: nn.Module, layout: RowLayout, masking: Masking | None = None, *, multiple: int = FLEX_BLOCK
    ) -> None:
        super().__init__()
        use_fast_linears(model)
        answer_where_read(architecture.causal_lm(model))
        self.model = model
        self.layout = layout
        self.multiple = multiple  # of which the line of the layout "flex" is long
        self.masking = masking  # token masks of SparsePO and MAPO, from the reference's hidden states

    def forward(
        self,
        prompt_rows: Sequence[PromptRow],
        *,
        statistics: bool = False,
        reference: ReferenceDistribution | None = None,
        keep_hidden: bool = False,
    ) -> TokenScores:
        """Score every completion of `prompt_rows`.

        `statistics` adds what the next-token distribution gives without gradient; `reference`, the reference's hidden
        states at the same completion tokens in the same order, adds the full-vocabulary columns.
        """
        model = architecture.causal_lm(self.model)
        batch = self._batch(prompt_rows, model.device)
        hidden, head = self._hidden(prompt_rows, batch), architecture.head_of(model)
        columns = token_columns(hidden, head, batch.targets, statistics=statistics, reference=reference)
        return TokenScores(
            columns.logps,
            batch.lengths,
            columns.statistics,
            columns.kl,
            columns.reference_logps,
            columns.perturbed,
            self._masks(reference, batch.lengths),
            hidden.detach() if keep_hidden else None,
        )

    @torch.no_grad()
    def hidden(self, prompt_rows: Sequence[PromptRow]) -> Tensor:
        """`(tokens, hidden)` hidden states that predict each completion token, in the model's dtype."""
        model = architecture.causal_lm(self.model)
        return self._hidden(prompt_rows, self._batch(prompt_rows, model.device))

    def _batch(self, prompt_rows: Sequence[PromptRow], device: torch.device) -> Batch:
        return collate(prompt_rows, self.layout, self.multiple).to(device)

    def _masks(self, reference: ReferenceDistribution | None, lengths: Tensor) -> TokenMasks | None:
        if self.masking is None or not isinstance(reference, ReferenceLogits):
            return None
        return self.masking(reference.hidden, lengths)

    def _hidden(self, prompt_rows: Sequence[PromptRow], batch: Batch) -> Tensor:
        """Hidden states after the last norm, at the positions that predict a completion token: (tokens, hidden)."""
        model = architecture.causal_lm(self.model)
        body = model.base_model
        if self.layout != "padded":
            mask = architecture.masks(model, prompt_rows, batch, self.layout)
            output = body(
                input_ids=batch.input_ids, attention_mask=mask, position_ids=batch.position_ids, use_cache=False
            )
        else:
            output = body(input_ids=batch.input_ids, attention_mask=(batch.segments != PADDING).long(), use_cache=False)
        return output.last_hidden_state.flatten(0, 1).index_select(0, batch.predicts)
