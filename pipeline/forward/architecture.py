"""What must be known about a causal language model to run its body and its head separately."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedModel

from scoreonce.pipeline.attention import flex, varlen
from scoreonce.pipeline.attention.cpu_rows import RowMask
from scoreonce.pipeline.attention.language_model import attention_of, language_model
from scoreonce.pipeline.batches.prompt_rows import Batch, PromptRow, RowLayout, attention_mask
from scoreonce.pipeline.head.log_probs import Head
from scoreonce.schemas.errors import InputError


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, taken out of a PEFT wrapper if there is one."""
    if isinstance(model, PreTrainedModel):
        return model
    base: PreTrainedModel = model.get_base_model()  # type: ignore[operator]
    return base


def body_of(model: PreTrainedModel) -> nn.Module:
    """The language model without its output head, which returns hidden states after the last norm.

    transformers' `base_model` is the model itself where the name in `base_model_prefix` is not that of the body, as in
    Llama 4. Raises `InputError` where there is no such part.
    """
    reader = language_model(model)
    body: nn.Module = reader.base_model
    headless = reader is not model and reader.get_output_embeddings() is None
    # Of a model of images too the language model often is the body itself, and the head is outside of it.
    if headless or body is not reader:
        return body
    inner = [child for child in reader.children() if isinstance(child, PreTrainedModel)]
    if len(inner) != 1:
        raise InputError(
            f"{type(model).__name__} cannot be run without its output head, as scoreonce does.",
            found=f"{len(inner)} models inside it, and one is its body",
            where="the model's class",
            fix="Report this architecture.",
        )
    return inner[0]


def settings(model: PreTrainedModel) -> dict[str, Any]:
    """The text model's configuration as plain data."""
    plain: dict[str, Any] = model.config.get_text_config().to_dict()
    return plain


def has_experts(model: PreTrainedModel) -> bool:
    """Whether the model is a mixture of experts, in which rounding can send a token to another expert."""
    return bool(settings(model).get("num_experts_per_tok"))


class HeadForm(NamedTuple):
    """What a model does to the logits of its projection, as in `Head`, and how many of them it has (None: all)."""

    scale: float = 1.0
    softcap: float | None = None
    vocabulary: int | None = None


# Of models whose head was tried, see `head_probe`.
_forms: WeakKeyDictionary[PreTrainedModel, HeadForm] = WeakKeyDictionary()


def set_head_form(model: PreTrainedModel, form: HeadForm) -> None:
    """Have `head_of` give this form for this model."""
    _forms[model] = form


def form_of(model: PreTrainedModel) -> HeadForm:
    """The form that `head_probe` found, or the declared one where the model was not tried."""
    return _forms.get(model) or declared_form(model)


def head_of(model: PreTrainedModel) -> Head:
    """The output head, of the form that `form_of` gives."""
    return head_with(model, form_of(model))


def head_with(model: PreTrainedModel, form: HeadForm) -> Head:
    """The model's projection as a head of this form."""
    projection = model.get_output_embeddings()
    weight: Tensor = projection.weight
    # A head that an adapter trains whole is wrapped in PEFT's module, which passes these on.
    bias: Tensor | None = getattr(projection, "bias", None)
    if form.vocabulary is not None and form.vocabulary < len(weight):  # the rest is padding
        weight, bias = weight[: form.vocabulary], None if bias is None else bias[: form.vocabulary]
    return Head(weight, bias, form.scale, form.softcap)


def declared_form(model: PreTrainedModel) -> HeadForm:
    """The scale and soft-cap that the configuration declares, exact where a measured one is rounded.

    Gemma caps its logits, Cohere and Falcon-H1 multiply them, Granite divides them.
    """
    config = settings(model)
    scale = float(config.get("logit_scale") or 1.0) * float(config.get("lm_head_multiplier") or 1.0)
    scale /= float(config.get("logits_scaling") or 1.0)
    return HeadForm(scale, config.get("final_logit_softcapping"))


def windows(model: PreTrainedModel) -> dict[str, int | None] | None:
    """The sliding window of each kind of attention layer, or None for full attention; None if a kind is unknown."""
    config = settings(model)
    kinds = set(config.get("layer_types") or [])
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if not kinds:
        return {"sliding_attention": window} if window else {"full_attention": None}
    known = {"full_attention": None, "sliding_attention": window}
    return {kind: known[kind] for kind in sorted(kinds)} if kinds <= set(known) else None


def attends_by_rows(model: PreTrainedModel) -> bool:
    """Whether this model can attend row by row on a CPU."""
    return windows(model) is not None and model.device.type == "cpu" and attention_of(model) == "sdpa"


Mask = Tensor | BlockMask


def masks(model: PreTrainedModel, rows: Sequence[PromptRow], batch: Batch, layout: RowLayout) -> Mask | dict[str, Mask]:
    """Attention masks of prompt rows in the form that the model's attention takes.

    A single mask, or one for each kind of layer if the model mixes kinds: with a single one, transformers would use it
    for sliding layers too. SDPA takes booleans, eager attention values to add, flex attention block masks,
    variable-length attention the ends of causal runs.
    """
    kinds = windows(model) or {"full_attention": None}
    by_rows = layout == "packed" and attends_by_rows(model)
    made: dict[str, Mask] = {
        kind: RowMask.of(rows, batch, window) if by_rows else _mask(model, rows, batch, window)
        for kind, window in kinds.items()
    }
    return next(iter(made.values())) if len(made) == 1 else made


def _mask(model: PreTrainedModel, rows: Sequence[PromptRow], batch: Batch, window: int | None) -> Mask:
    implementation = attention_of(model)
    if implementation == flex.NAME:
        return flex.block_mask(batch, window)
    if implementation == varlen.NAME:
        return varlen.VarlenMask.of(rows, window, batch.segments.device)
    mask = attention_mask(batch, window)
    if implementation != "eager":
        return mask
    return torch.zeros_like(mask, dtype=model.dtype).masked_fill_(~mask, torch.finfo(model.dtype).min)
