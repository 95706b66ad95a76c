"""The trained model as a Hugging Face folder, with a model card that holds its lineage."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers import AutoConfig, PreTrainedModel

from scoreonce.pipeline.pages.model_card import card
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage
from scoreonce.stages.common.removal import remove
from scoreonce.stages.models.loading import dropout_settings, load_tokenizer

logger = logging.getLogger(__name__)


def save(folder: Path, model: PreTrainedModel, *, origin: Path, tokenizer: str, lineage: Lineage, inside: Path) -> None:
    """Write weights (safetensors), config, tokenizer and card; the folder appears whole or not at all.

    Dropout was off in training; the saved config has `origin`'s own settings again. A folder of an earlier save is
    removed, if it lies in the folder `inside`.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    remove(temporary, inside=inside)
    try:
        for key, value in dropout_settings(AutoConfig.from_pretrained(origin)).items():
            setattr(model.config, key, value)
        model.save_pretrained(temporary)
        try:
            load_tokenizer(tokenizer).save_pretrained(temporary)
        except InputError:
            logger.info(f"note: no tokenizer at {tokenizer}; the model folder has none")
        (temporary / "README.md").write_text(card(lineage), encoding="utf-8")
        remove(folder, inside=inside)
        temporary.rename(folder)
    finally:
        remove(temporary, inside=inside)
