"""How a mixture of experts shares positions among its experts, and the auxiliary loss that balances them.

    loss = E * sum_e f_e P_e

f_e: how often expert e is among the top k, P_e: its mean probability, over positions and layers; E experts. Source:
Switch Transformer, arXiv 2101.03961, equations 4 to 6, as transformers' `load_balancing_loss_func` has it. f and P are
ratios of sums, so that the loss of a step follows from the sums of its micro-batches; only P has a gradient.

Dimensions: positions = of all sequences of a micro-batch, experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from transformers import PreTrainedModel

from scoreonce.pipeline.batches.prompt_rows import PADDING, Batch
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.head.token_scores import Routing
from scoreonce.schemas.errors import InputError

# Between our loss and the model's own, relative: far above rounding, far below another k or another softmax. In half
# precision models round each probability.
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 2e-2}
SINGLE_TOLERANCE = 1e-3


class Router(NamedTuple):
    """What a model's auxiliary loss is made with."""

    top_k: int
    coefficient: float


def routing_of(logits: Sequence[Tensor], weights: Float64[Tensor, "positions"], top_k: int) -> Routing:
    """The sums of some layers' router logits, each (positions, experts); `weights` says how often a position counts."""
    counts = torch.zeros(logits[0].shape[-1], dtype=torch.float64, device=weights.device)
    probabilities = torch.zeros_like(counts)
    for layer in logits:
        whole = layer.flatten(0, -2)
        probability = whole.to(torch.promote_types(whole.dtype, torch.float32)).softmax(1)
        chosen = probability.detach().topk(top_k, dim=1).indices
        counts = counts.index_add(0, chosen.flatten(), weights.repeat_interleave(top_k))
        probabilities = probabilities + weights @ probability.double()
    return Routing(counts, probabilities, len(logits) * weights.sum())


def position_weights(batch: Batch) -> Float64[Tensor, "positions"]:
    """How often each position counts: a prompt's once for each of its completions, padding's 0.

    So the loss is the same in every layout, and that of plain sequences.
    """
    segments, prompts = batch.segments.flatten(), batch.prompts.flatten()
    first = batch.lengths.cumsum(0) - batch.lengths  # the token behind the prompt is predicted by the prompt's last
    completions = torch.zeros(segments.numel() + 1, dtype=torch.float64, device=segments.device)
    completions = completions.index_add(0, prompts[batch.predicts[first]], torch.ones_like(first, dtype=torch.float64))
    counted = torch.where(segments == prompts, completions[prompts.clamp(min=0)], 1.0)
    return torch.where(segments == PADDING, 0.0, counted)


@torch.inference_mode()
def router_of(model: torch.nn.Module) -> Router:
    """The k and the coefficient of a model's auxiliary loss, after a comparison with the model's own on random tokens.

    Raises `InputError` where the model has no such loss, or computes another one.
    """
    lm = architecture.causal_lm(model)
    config = architecture.settings(lm)
    top_k, coefficient = config.get("num_experts_per_tok"), config.get("router_aux_loss_coef")
    if not top_k or coefficient is None:
        raise _no_loss(lm, f"num_experts_per_tok {top_k}, router_aux_loss_coef {coefficient} in its config")
    vocabulary = lm.get_input_embeddings().weight.shape[0]
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, vocabulary, (2, 24))).to(lm.device)
    output = lm(input_ids=tokens, output_router_logits=True, use_cache=False)
    if output.get("aux_loss") is None:
        raise _no_loss(lm, "no aux_loss in its output")
    every = torch.ones(tokens.numel(), dtype=torch.float64, device=lm.device)
    ours, own = float(routing_of(output.router_logits, every, top_k).loss()), float(output.aux_loss)
    if not abs(ours - own) <= TOLERANCE.get(lm.dtype, SINGLE_TOLERANCE) * abs(own):
        raise InputError(
            f"The auxiliary loss of {type(lm).__name__} is not understood.",
            found=f"{ours:.6g} on random tokens, and the model's own is {own:.6g}",
            where="train.router_aux_loss",
            fix="Set train.router_aux_loss = false, and report this architecture.",
        )
    return Router(top_k, coefficient)


def _no_loss(model: PreTrainedModel, found: str) -> InputError:
    return InputError(
        f"{type(model).__name__} has no auxiliary loss for routers.",
        found=found,
        where="train.router_aux_loss",
        fix="Set train.router_aux_loss = false.",
    )
