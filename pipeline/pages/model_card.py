"""The model card: what was trained, from what, on what and how, and the whole lineage, as Markdown.

Names of data, models and labels come from elsewhere. They stand in the card as text.
"""

from __future__ import annotations

import json
from typing import Any

from scoreonce.schemas.manifests import Lineage

_ESCAPED = {**{mark: f"\\{mark}" for mark in "\\`*[]|!"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"}


def card(lineage: Lineage, library: str = "transformers") -> str:
    """The card of a trained policy, which `library` (transformers, peft) loads."""
    method, data = lineage.method, lineage.data
    cited = f" ({plain(method.paper)})" if method.paper else ""
    settings = "\n".join(
        f"| {plain(name)} | {plain(value)} |"
        for name, value in {**method.hyperparameters, **lineage.train}.items()
        if value is not None
    )
    return f"""---
library_name: {library}
pipeline_tag: text-generation
base_model: {_json(lineage.policy.model)}
tags: [scoreonce, preference-optimisation, {_json(method.name)}]
---

# {plain(lineage.label)}

Trained with **{plain(method.title)}**{cited} from {plain(lineage.policy.model)} on
{data.pairs:,} pairs of {plain(data.source)}, by scoreonce {plain(lineage.versions["scoreonce"])}.

| setting | value |
|---|---|
{settings}

## Lineage

```json
{_json(lineage.model_dump(mode="json"), indent=2)}
```
"""


def plain(value: Any) -> str:
    """A value as text in one line: it cannot make a tag, a link, a picture, code or a cell of a table."""
    line = " ".join(str(value).split())
    return "".join(_ESCAPED.get(character, character) for character in line)


def _json(value: Any, indent: int | None = None) -> str:
    """JSON without the characters that could end a block of code or begin a tag."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("`", "\\u0060")
