"""The trained model as a Hugging Face folder, with a model card that holds its lineage, and a manifest."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel

from scoreonce.pipeline.pages.model_card import card
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage
from scoreonce.stages.common.removal import remove
from scoreonce.stages.config import Data
from scoreonce.stages.data.encoding import template_of
from scoreonce.stages.models import adapters, folders, loading, multimodal, tokenizers
from scoreonce.stages.models.lineage import Start
from scoreonce.stages.sharded.processes import on_first
from scoreonce.stages.sharded.save import gathered_adapter, write_model
from scoreonce.stages.weights import policy_manifest

logger = logging.getLogger(__name__)


def save(
    folder: Path,
    model: PreTrainedModel,
    *,
    start: Start,
    data: Data,
    lineage: Lineage,
    inside: Path,
    sharded: torch.dtype | None = None,
) -> None:
    """Write weights or adapter (safetensors), config, tokenizer, card and manifest; the folder appears whole or not.

    The tokenizer is that of `data`, or of `start` where it names none, with the chat template that the policy was
    trained on. Dropout was off in training; a saved config has the settings of `start` again. A folder of an earlier
    save is removed, if it lies in the folder `inside`. `sharded`: the dtype to save a sharded model in, which all
    processes do together.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    origin = folders.folder_of(start.model, start.revision)

    def begin() -> None:
        remove(temporary, inside=inside)
        temporary.mkdir(parents=True)

    def finish() -> None:
        _write_tokenizer(temporary, data, origin)
        multimodal.copy_processor(origin, temporary)
        library = "transformers" if isinstance(model, PreTrainedModel) else "peft"
        (temporary / "README.md").write_text(card(lineage, library), encoding="utf-8")
        policy_manifest.write(temporary, lineage.identity)
        remove(folder, inside=inside)
        temporary.rename(folder)

    first = on_first if sharded else _alone
    first(begin)
    try:
        if isinstance(model, PreTrainedModel):
            for key, value in loading.dropout_settings(folders.load_config(origin)).items():
                setattr(model.config.get_text_config(), key, value)
            if sharded:
                write_model(model, temporary, sharded)
            else:
                model.save_pretrained(temporary)
        else:
            matrices = gathered_adapter(model) if sharded else None
            base = adapters.base_name(start.model)
            first(lambda: adapters.write(model, temporary, base, start.revision, matrices))
        first(finish)
    finally:
        remove(temporary, inside=inside)


def _alone(work: Callable[[], None]) -> None:
    work()


def _write_tokenizer(folder: Path, data: Data, origin: Path) -> None:
    name = data.tokenizer or str(origin)
    try:
        tokenizer = tokenizers.load_tokenizer(name)
    except InputError:
        logger.info(f"note: no tokenizer at {name}; the model folder has none")
        return
    if (template := template_of(data).text) is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
