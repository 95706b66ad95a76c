"""The one forward pass of both stages: token log-probs of the completions of prompt rows.

`score`, `train` and `evaluate` all come here, so that a policy at step 0 equals the cached reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from scoreonce.pipeline import architecture, rows
from scoreonce.pipeline.head import TokenStatistics, token_logps, token_logps_and_statistics

Layout = Literal["shared", "padded"]


class Scored(NamedTuple):
    """All completions of all rows of a micro-batch, row by row, their tokens one after the other."""

    token_logps: Tensor  # (tokens,) float32, nats; gradients flow
    lengths: Tensor  # (completions,) int64
    statistics: TokenStatistics | None = None

    def sums(self) -> Tensor:
        """`(completions,)` float64 log-probs, summed over each completion's tokens; gradients flow."""
        return sum_per_completion(self.token_logps, self.lengths)


def sum_per_completion(values: Tensor, lengths: Tensor) -> Tensor:
    """`(completions,)` float64 sums of `values` (tokens,), each over its own `lengths` (completions,) tokens."""
    owners = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths, output_size=len(values))
    return torch.zeros(len(lengths), dtype=torch.float64, device=values.device).index_add(0, owners, values.double())


class TokenScorer(nn.Module):
    """A causal language model that answers with token log-probs instead of logits.

    `layout` is "shared" (a prompt and its completions in one row, the prompt computed once) or "padded" (each
    completion a sequence of its own: the oracle, and the way for attention that takes no custom mask). A module of its
    own, so that DDP, FSDP2 and DeepSpeed wrap body and head together.
    """

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.model = model
        self.layout = layout

    def forward(self, prompt_rows: Sequence[rows.PromptRow], *, statistics: bool = False) -> Scored:
        """Score every completion of `prompt_rows`; with `statistics` no gradient flows."""
        model = architecture.causal_lm(self.model)
        batch = rows.collate(prompt_rows if self.layout == "shared" else rows.padded(prompt_rows)).to(model.device)
        hidden = self._hidden(batch)
        head = architecture.head_of(model)
        if statistics:
            logps, extra = token_logps_and_statistics(hidden, head, batch.targets)
            return Scored(logps, batch.lengths, extra)
        return Scored(token_logps(hidden, head, batch.targets), batch.lengths)

    def _hidden(self, batch: rows.Batch) -> Tensor:
        """Hidden states after the last norm, at the positions that predict a completion token: (tokens, hidden)."""
        model = architecture.causal_lm(self.model)
        body = model.base_model
        if self.layout == "shared":
            mask = architecture.masks(model, batch, model.dtype)
            output = body(
                input_ids=batch.input_ids, attention_mask=mask, position_ids=batch.position_ids, use_cache=False
            )
        else:
            output = body(
                input_ids=batch.input_ids, attention_mask=(batch.segments != rows.PADDING).long(), use_cache=False
            )
        return output.last_hidden_state.flatten(0, 1).index_select(0, batch.predicts)
