"""The model card: what was trained, from what, on what and how, and the whole lineage, as Markdown.

Names of data, models and labels come from elsewhere. They stand in the card as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from scoreonce.schemas.manifests import Lineage

_ESCAPED = {**{mark: f"\\{mark}" for mark in "\\`*[]|!"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"}


# `org/name`, and no path: what the Hub takes for the name of a model.
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


def card(
    lineage: Lineage,
    library: str = "transformers",
    *,
    figures: Mapping[str, Any] | None = None,
    findings: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The card of a trained policy, which `library` (transformers, peft) loads.

    `figures` are those of its evaluation, `findings` those of the audit of its data, where they are known.
    """
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
{_base(lineage.policy.model)}tags: [scoreonce, preference-optimisation, {_json(method.name)}]
---

# {plain(lineage.label)}

Trained with **{plain(method.title)}**{cited} from {plain(lineage.policy.model)} on
{data.pairs:,} pairs of {plain(data.source)}, by scoreonce {plain(lineage.versions["scoreonce"])}.

| setting | value |
|---|---|
{settings}
{_evaluation(figures)}{_audit(findings)}
## Lineage

```json
{_json(lineage.model_dump(mode="json"), indent=2)}
```
"""


def _base(model: str) -> str:
    """The base model, where its name is one that the Hub may know."""
    return f"base_model: {_json(model)}\n" if _REPOSITORY.fullmatch(model) else ""


_RATES = {
    "accuracy": "pairs whose chosen completion gained more than the rejected one",
    "length_controlled_accuracy": "the same, with longer and shorter chosen completions counting alike",
    "policy_ranking_accuracy": "pairs whose chosen completion is the more likely one under the policy",
    "reference_ranking_accuracy": "the same under the reference",
}


def _evaluation(figures: Mapping[str, Any] | None) -> str:
    """The held-out figures as a section; nothing where there are none."""
    if figures is None or figures.get("accuracy") is None:
        return ""
    rows = [
        f"| {meaning} | {figures[name]:.1%} | {figures[f'{name}_low']:.1%} to {figures[f'{name}_high']:.1%} |"
        for name, meaning in _RATES.items()
        if None not in (figures.get(name), figures.get(f"{name}_low"), figures.get(f"{name}_high"))
    ]
    drift = figures.get("cross_entropy_increase")
    moved = "" if drift is None else f" The policy moved by {drift:+.3f} nats per held-out token from the reference."
    return f"""
## Held-out figures

Over {figures["pairs"]:,} pairs; 95% intervals.{moved}

| share of held-out pairs | | interval |
|---|---|---|
{chr(10).join(rows)}
"""


def _audit(findings: Sequence[Mapping[str, Any]] | None) -> str:
    """What the audit found in the data as a section; nothing where there was none."""
    if findings is None:
        return ""
    found = [finding for finding in findings if finding["rows"]]
    rows = "\n".join(
        f"| {plain(finding['title'])} | {finding['severity']} | {finding['rows']:,} | {finding['share']:.1%} |"
        for finding in found
    )
    table = f"| finding | severity | pairs | share |\n|---|---|---|---|\n{rows}" if found else "No finding."
    return f"""
## Audit of the data

{len(findings)} checks of training and held-out pairs.

{table}
"""


def plain(value: Any) -> str:
    """A value as text in one line: it cannot make a tag, a link, a picture, code or a cell of a table."""
    line = " ".join(str(value).split())
    return "".join(_ESCAPED.get(character, character) for character in line)


def _json(value: Any, indent: int | None = None) -> str:
    """JSON without the characters that could end a block of code or begin a tag."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("`", "\\u0060")
