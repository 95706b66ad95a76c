"""Models of images or audio too: trained on text by their language model, loaded and saved with all of their parts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING

from scoreonce.pipeline.attention.language_model import language_model
from scoreonce.schemas.errors import InputError

# What AutoProcessor reads beside the tokenizer's files.
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")


def auto_class(config: PretrainedConfig) -> Any:
    """The class of transformers that loads the whole of a checkpoint with this configuration.

    `AutoModelForCausalLM` would leave the images' part of some checkpoints out. A checkpoint of the text model alone,
    by the class that its configuration names, is loaded as that. Raises `InputError` for an encoder-decoder of images.
    """
    if type(config) not in MODEL_FOR_MULTIMODAL_LM_MAPPING:
        return AutoModelForCausalLM
    whole = MODEL_FOR_MULTIMODAL_LM_MAPPING[type(config)].__name__
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and whole not in (config.architectures or ()):
        return AutoModelForCausalLM
    if config.is_encoder_decoder or config.get_text_config().is_encoder_decoder:
        raise InputError(
            f"{whole} is an encoder-decoder, which has no log-probs of a prompt and a completion in one sequence.",
            found="is_encoder_decoder = true",
            where="config.json",
            fix="Use a model whose language model is a decoder.",
        )
    return AutoModelForMultimodalLM


def freeze_other_parts(model: PreTrainedModel) -> None:
    """Exempt from training what text does not go through: towers of images and audio, and what projects their output.

    So they stay as they are bit for bit, and DDP waits for no gradient of theirs. A model of text alone trains as
    before.
    """
    other = _other_parameters(model)
    for parameter in model.parameters():
        if id(parameter) in other:
            parameter.requires_grad_(False)


def other_parts(model: PreTrainedModel) -> str | None:
    """A pattern of the full names of all modules that text does not go through; None where there are none."""
    names = list(_outermost(model, _other_parameters(model), ""))
    return "|".join(rf"{re.escape(name)}(\..+)?" for name in names) or None


def _other_parameters(model: PreTrainedModel) -> set[int]:
    """Those outside of the language model and the output head, and of models with another configuration inside it."""
    if type(model.config) not in MODEL_FOR_MULTIMODAL_LM_MAPPING:
        return set()
    reader, head = language_model(model), model.get_output_embeddings()
    towers = [
        part for part in reader.modules() if isinstance(part, PreTrainedModel) and part.config is not reader.config
    ]
    inside = {id(parameter) for tower in towers for parameter in tower.parameters()}
    read = {id(parameter) for parameter in reader.parameters()} - inside
    if isinstance(head, nn.Module):
        read |= {id(parameter) for parameter in head.parameters()}
    return {id(parameter) for parameter in model.parameters()} - read


def _outermost(module: nn.Module, parameters: set[int], prefix: str) -> list[str]:
    """The outermost modules that have parameters, all of them among these."""
    found = []
    for name, child in module.named_children():
        path, own = f"{prefix}{name}", {id(parameter) for parameter in child.parameters()}
        found += [path] if own and own <= parameters else _outermost(child, parameters, f"{path}.")
    return found


def copy_processor(origin: Path, folder: Path) -> None:
    """Copy what turns images and audio into a model's input from the folder `origin`, if it is there."""
    for name in PROCESSOR_FILES:
        if (origin / name).is_file():
            shutil.copyfile(origin / name, folder / name)
