"""The forward pass of all stages: prompt rows in, token log-probs of their completions out.

`score`, `train` and `evaluate` share it, so that a policy at step 0 equals the cached reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scoreonce.pipeline.attention.cpu_matmul import use_fast_linears
from scoreonce.pipeline.attention.last_layer import skip_unused_output
from scoreonce.pipeline.batches.prompt_rows import FLEX_BLOCK, PADDING, Batch, PromptRow, RowLayout, collate
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.head import ReferenceDistribution, ReferenceLogits, token_columns
from scoreonce.pipeline.forward.token_masks import Masking
from scoreonce.pipeline.forward.token_scores import TokenMasks, TokenScores


class TokenScorer(nn.Module):
    """A causal language model that returns token log-probs instead of logits.

    Layouts: "shared" (a prompt and its completions in one sequence, the prompt computed once), "packed" (several such
    rows in one sequence, on a CPU), "flex" and "flash" (packed on a GPU, by block masks or variable-length attention;
    the model's attention must have been replaced by their `switch_on`), "padded" (each completion in a sequence of its
    own: what the other layouts are tested against, and the only one for attention without custom masks).

    A module, so that DDP wraps body and head together.
    """

    def __init__(
        self, model: nn.Module, layout: RowLayout, masking: Masking | None = None, *, multiple: int = FLEX_BLOCK
    ) -> None:
        super().__init__()
        use_fast_linears(model)
        skip_unused_output(architecture.causal_lm(model))
        self.model = model
        self.layout = layout
        self.multiple = multiple  # to which the layout "flex" pads its sequence
        self.masking = masking  # SparsePO and MAPO: token masks from the reference's hidden states

    def forward(
        self,
        prompt_rows: Sequence[PromptRow],
        *,
        statistics: bool = False,
        reference: ReferenceDistribution | None = None,
        keep_hidden: bool = False,
    ) -> TokenScores:
        """Score every completion of `prompt_rows`.

        `statistics` adds entropy and other statistics of the next-token distribution. `reference`, the reference's
        next-token distributions at the same completion tokens in the same order, adds the KL divergence from it, its
        log-probs of the tokens, and perturbed log-probs where it says so. `keep_hidden` adds the hidden states.
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
    def hidden(self, prompt_rows: Sequence[PromptRow]) -> Float[Tensor, "tokens hidden"]:
        """Hidden states that predict each completion token, in the model's dtype."""
        model = architecture.causal_lm(self.model)
        return self._hidden(prompt_rows, self._batch(prompt_rows, model.device))

    def _batch(self, prompt_rows: Sequence[PromptRow], device: torch.device) -> Batch:
        return collate(prompt_rows, self.layout, self.multiple).to(device)

    def _masks(self, reference: ReferenceDistribution | None, lengths: Tensor) -> TokenMasks | None:
        if self.masking is None or not isinstance(reference, ReferenceLogits):
            return None
        return self.masking(reference.hidden, lengths)

    def _hidden(self, prompt_rows: Sequence[PromptRow], batch: Batch) -> Float[Tensor, "tokens hidden"]:
        """Hidden states after the last norm, at the positions that predict a completion token."""
        model = architecture.causal_lm(self.model)
        body = architecture.body_of(model)
        if self.layout != "padded":
            mask = architecture.masks(model, prompt_rows, batch, self.layout)
            output = body(
                input_ids=batch.input_ids, attention_mask=mask, position_ids=batch.position_ids, use_cache=False
            )
        else:
            # Without position ids and with a plain padding mask, as any transformers model takes it.
            output = body(input_ids=batch.input_ids, attention_mask=(batch.segments != PADDING).long(), use_cache=False)
        return output.last_hidden_state.flatten(0, 1).index_select(0, batch.predicts)
