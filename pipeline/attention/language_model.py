"""The part of a model that reads text: all of it, or of a model of images or audio too its language model."""

from __future__ import annotations

from transformers import PreTrainedModel

from scoreonce.schemas.errors import InputError


def language_model(model: PreTrainedModel) -> PreTrainedModel:
    """The outermost part whose configuration is the model's text configuration; the model itself where it has no other.

    Raises `InputError` where there is no such part.
    """
    text = model.config.get_text_config()
    found = next((part for part in model.modules() if isinstance(part, PreTrainedModel) and part.config is text), None)
    if found is None:
        raise InputError(
            f"{type(model).__name__} has no language model that can be run by itself.",
            found=f"no part of it has the configuration {type(text).__name__}",
            where="the model's class",
            fix="Use another model: scoreonce trains models of images or audio by their language model.",
        )
    return found


def attention_of(model: PreTrainedModel) -> str:
    """The name of the attention by which the language model attends, as transformers has it."""
    name: str = model.config.get_text_config()._attn_implementation
    return name
