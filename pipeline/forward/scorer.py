"""The forward pass of all stages: prompt rows in, token log-probs of their completions out.

`score`, `train` and `evaluate` share it, so that a policy at step 0 equals the cached reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.utils import ModelOutput

from scoreonce.pipeline.attention.cpu_matmul import use_fast_linears
from scoreonce.pipeline.attention.last_layer import compute_all_output, skip_unused_output
from scoreonce.pipeline.batches.prompt_rows import FLEX_BLOCK, PADDING, Batch, PromptRow, RowLayout, collate, padded
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.continuation import States, continued, predicting
from scoreonce.pipeline.forward.rotary import RotaryLengths
from scoreonce.pipeline.forward.routing import position_weights, routing_of
from scoreonce.pipeline.forward.token_masks import Masking
from scoreonce.pipeline.head.log_probs import ReferenceDistribution, ReferenceLogits, token_columns
from scoreonce.pipeline.head.token_scores import TokenMasks, TokenScores


class TokenScorer(nn.Module):
    """A causal language model that returns token log-probs instead of logits.

    Layouts: "shared" (a prompt and its completions in one sequence, the prompt computed once), "packed" (several such
    rows in one sequence, on a CPU), "flex" and "flash" (packed on a GPU, by block masks or variable-length attention;
    the model's attention must have been replaced by their `switch_on`), "padded" (each completion in a sequence of its
    own: what the other layouts are tested against, and the only one that trains attention without custom masks),
    "continued" (without gradients: a prompt computed once, and its completions from the model's own cache of it).

    A module, so that DDP wraps body and head together.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: RowLayout,
        masking: Masking | None = None,
        *,
        multiple: int = FLEX_BLOCK,
        top_k: int | None = None,
    ) -> None:
        super().__init__()
        use_fast_linears(model)
        skip_unused_output(architecture.causal_lm(model))
        self.rotary = RotaryLengths.of(architecture.causal_lm(model))
        self.model = model
        self.layout = layout
        self.multiple = multiple  # to which the layout "flex" pads its sequence
        self.top_k = top_k  # experts of a position, where their routing is asked for
        if top_k is not None:
            compute_all_output(architecture.causal_lm(model))
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
        states, head = self._states(prompt_rows), architecture.head_of(architecture.causal_lm(self.model))
        columns = token_columns(states.hidden, head, states.targets, statistics=statistics, reference=reference)
        return TokenScores(
            columns.logps,
            states.lengths,
            columns.statistics,
            columns.kl,
            columns.reference_logps,
            columns.perturbed,
            self._masks(reference, states.lengths),
            states.hidden.detach() if keep_hidden else None,
            states.routing,
        )

    @torch.no_grad()
    def hidden(self, prompt_rows: Sequence[PromptRow]) -> Float[Tensor, "tokens hidden"]:
        """Hidden states that predict each completion token, in the model's dtype."""
        return self._states(prompt_rows).hidden

    def _states(self, prompt_rows: Sequence[PromptRow]) -> States:
        model = architecture.causal_lm(self.model)
        if self.layout == "continued":
            return continued(architecture.body_of(model), prompt_rows, model.device)
        prompt_rows = self._rows(prompt_rows)
        batch = self._batch(prompt_rows, model.device)
        output = self._body_output(prompt_rows, batch)
        routing = None if self.top_k is None else routing_of(output.router_logits, position_weights(batch), self.top_k)
        return States(predicting(output, batch), batch.targets, batch.lengths, routing)

    def _rows(self, prompt_rows: Sequence[PromptRow]) -> Sequence[PromptRow]:
        """The rows of each sequence, completion by completion where they cannot share their prompt."""
        rows = padded(prompt_rows) if self.layout == "padded" else prompt_rows
        return self.rotary.apart(rows) if self.rotary else rows

    def _batch(self, prompt_rows: Sequence[PromptRow], device: torch.device) -> Batch:
        return collate(prompt_rows, self.layout, self.multiple).to(device)

    def _masks(self, reference: ReferenceDistribution | None, lengths: Tensor) -> TokenMasks | None:
        if self.masking is None or not isinstance(reference, ReferenceLogits):
            return None
        return self.masking(reference.hidden, lengths)

    def _body_output(self, prompt_rows: Sequence[PromptRow], batch: Batch) -> ModelOutput:
        """What the model without its head returns: hidden states after the last norm, and routers' logits if asked."""
        model = architecture.causal_lm(self.model)
        body, options = architecture.body_of(model), {"use_cache": False}
        if self.top_k is not None:
            options["output_router_logits"] = True
        with self.rotary.set_for(prompt_rows, batch) if self.rotary else nullcontext():
            if self.layout != "padded":
                mask = architecture.masks(model, prompt_rows, batch, self.layout)
                made = body(input_ids=batch.input_ids, attention_mask=mask, position_ids=batch.position_ids, **options)
            else:
                # Without position ids and with a plain padding mask, as any transformers model takes it.
                made = body(input_ids=batch.input_ids, attention_mask=(batch.segments != PADDING).long(), **options)
        output: ModelOutput = made
        return output
