"""What a forward pass was computed with, beyond weights, dtype and tokens: what log-probs depend on by rounding.

`score` keeps it beside its scores. `train` takes the same layout, and says what else is different where the policy
should equal the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:  # torch, not needed where nothing is computed
    import torch
    from transformers import PreTrainedModel

    from scoreonce.pipeline.batches.prompt_rows import RowLayout
    from scoreonce.pipeline.forward.layout_probe import Probe

PACKAGES = ("scoreonce", "torch", "transformers")
# scoreonce's own version is left out: what it changes in a forward pass is a change of layout or attention.
COMPARED = ("layout", "attention", "device", "compiled", "torch", "transformers")
AND = " and "  # between the values of files that were scored in different ways


def provenance_of(model: PreTrainedModel, layout: RowLayout, device: torch.device, *, compiled: bool) -> dict[str, Any]:
    """The facts about forward passes of `model` on a device of this machine, as files of the store keep them."""
    import torch

    from scoreonce.pipeline.attention.language_model import attention_of

    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "layout": layout,
        "attention": attention_of(model),
        "compiled": "yes" if compiled and layout == "flex" else "no",
        "versions": {name: version(name) for name in PACKAGES},
    }


def facts(provenances: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The compared facts of some provenances, by name, several values of one joined; without what is unknown."""
    found: dict[str, set[str]] = {}
    for provenance in provenances:
        versions = provenance.get("versions") or {}  # a list of them where files were merged
        for part in (provenance, *(versions if isinstance(versions, list) else [versions])):
            for name in COMPARED:
                if isinstance(value := part.get(name), str):
                    found.setdefault(name, set()).update(value.split(AND))
    return {name: AND.join(sorted(found[name])) for name in COMPARED if name in found}


def single_layout(layouts: str) -> RowLayout | None:
    """The layout that all was scored in; None where there were several."""
    return None if AND in layouts or not layouts else cast("RowLayout", layouts)


def other_layout(scored: str, found: Probe, *, asked: bool) -> str | None:
    """Why a forward pass is laid out otherwise than the scores were, as a sentence; None where it is not, or they have
    no layout that is known.

    `asked`: the run file names the layout.
    """
    if scored in (found.layout, ""):
        return None
    reason = "compute.attention" if asked else found.reason if single_layout(scored) else "one layout has to be taken"
    return (
        f"the reference was scored in {scored} rows, and {found.layout} rows are used here"
        f"{f' ({reason})' if reason else ''}: log-probs of the same weights differ by rounding"
    )


def differing(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The facts that are not the same, as text: "torch 2.12.0 when scored, 2.13.0 here"; empty where all are."""
    return "; ".join(
        f"{name} {then[name]} when scored, {now[name]} here"
        for name in COMPARED
        if then.get(name) and name in now and then[name] != now[name]
    )
