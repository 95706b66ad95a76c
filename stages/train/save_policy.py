"""The trained model as a Hugging Face folder, with a model card that holds its lineage, and a manifest."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from transformers import AutoConfig, PreTrainedModel

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage
from scoreonce.stages.models import policy_manifest
from scoreonce.stages.models.loading import dropout_settings, load_tokenizer

logger = logging.getLogger(__name__)


def save(folder: Path, model: PreTrainedModel, *, origin: Path, tokenizer: str, lineage: Lineage) -> None:
    """Write weights (safetensors), config, tokenizer, card and manifest; the folder appears whole or not at all.

    Dropout was off in training; the saved config has `origin`'s own settings again.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for key, value in dropout_settings(AutoConfig.from_pretrained(origin)).items():
            setattr(model.config, key, value)
        model.save_pretrained(temporary)
        try:
            load_tokenizer(tokenizer).save_pretrained(temporary)
        except InputError:
            logger.info(f"note: no tokenizer at {tokenizer}; the model folder has none")
        (temporary / "README.md").write_text(card(lineage), encoding="utf-8")
        policy_manifest.write(temporary, lineage.identity)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def card(lineage: Lineage) -> str:
    """A model card in Markdown: what was trained, from what, on what, how, and the lineage as JSON."""
    method, data, start = lineage.method, lineage.data, lineage.policy.model
    cited = f" ({method.paper})" if method.paper else ""
    settings = "\n".join(
        f"| {name} | {value} |"
        for name, value in {**method.hyperparameters, **lineage.train}.items()
        if value is not None
    )
    return f"""---
library_name: transformers
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
