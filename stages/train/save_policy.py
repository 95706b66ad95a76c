"""The trained model as a Hugging Face folder, with a model card that holds its lineage."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from transformers import PreTrainedModel

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage
from scoreonce.stages.models import adapters, loading
from scoreonce.stages.models.lineage import Start

logger = logging.getLogger(__name__)


def save(folder: Path, model: PreTrainedModel, *, start: Start, tokenizer: str | None, lineage: Lineage) -> None:
    """Write weights or adapter (safetensors), config, tokenizer and card; the folder appears whole or not at all.

    The tokenizer is that of `start` where none is named. Dropout was off in training; a saved config has the settings
    of `start` again.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    origin = loading.folder_of(start.model, start.revision)
    try:
        if isinstance(model, PreTrainedModel):
            for key, value in loading.dropout_settings(loading.load_config(origin)).items():
                setattr(model.config.get_text_config(), key, value)
            model.save_pretrained(temporary)
        else:
            adapters.write(model, temporary, adapters.base_name(start.model), start.revision)
        try:
            loading.load_tokenizer(tokenizer or str(origin)).save_pretrained(temporary)
        except InputError:
            logger.info(f"note: no tokenizer at {tokenizer or origin}; the model folder has none")
        library = "transformers" if isinstance(model, PreTrainedModel) else "peft"
        (temporary / "README.md").write_text(card(lineage, library), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def card(lineage: Lineage, library: str) -> str:
    """A model card in Markdown: what was trained, from what, on what, how, and the lineage as JSON."""
    method, data, start = lineage.method, lineage.data, lineage.policy.model
    cited = f" ({method.paper})" if method.paper else ""
    settings = "\n".join(
        f"| {name} | {value} |"
        for name, value in {**method.hyperparameters, **lineage.train}.items()
        if value is not None
    )
    return f"""---
library_name: {library}
pipeline_tag: text-generation
base_model: {json.dumps(start)}
tags: [scoreonce, preference-optimisation, {method.name}]
---

# {lineage.label}

Trained with **{method.title}**{cited} from `{start}` on
{data.pairs:,} pairs of `{data.source}`, by scoreonce {lineage.versions["scoreonce"]}.

| setting | value |
|---|---|
{settings}

## Lineage

```json
{json.dumps(lineage.model_dump(mode="json"), indent=2, ensure_ascii=False)}
```
"""
