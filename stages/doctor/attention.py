"""Which ways of attention can be used here, and why the others cannot."""

from __future__ import annotations

from dataclasses import dataclass

from scoreonce.stages.doctor.facts import Facts
from scoreonce.stages.doctor.software_checks import lacking

FLASH_CAPABILITY = (8, 0)  # of a GPU that torch's variable-length attention runs on
HALF = ("bfloat16", "float16")


@dataclass(frozen=True)
class Path:
    """A layout of compute.attention; `obstacle` is empty where nothing but the model can stand in its way."""

    layout: str
    obstacle: str


def paths(facts: Facts) -> list[Path]:
    """The layouts in the order in which `compute.attention = "auto"` tries them here, then those that it does not.

    Whether one is exact for a model is found out by running it, before any work. Empty where torch cannot be imported.
    """
    if facts.torch is None:
        return []
    from scoreonce.pipeline.batches.layouts import FORWARD_ONLY, candidates  # torch

    device = "cuda" if facts.uses_gpu else "cpu"
    compiled = facts.wanted is not None and facts.wanted.compiles
    tried = [layout for group in candidates(device, by_rows=True, compiled=compiled) for layout in group] + ["padded"]
    others = [layout for layout in ("packed", "flex", "flash") if layout not in tried]
    obstacles = {
        "packed": "it is for CPUs" if device == "cuda" else "",
        "flex": _of_flex(facts, has_backward=device not in FORWARD_ONLY),
        "flash": _of_flash(facts, compiled=compiled),
    }
    return [Path(layout, obstacles.get(layout, "")) for layout in [*tried, *others]]


def _of_flex(facts: Facts, *, has_backward: bool) -> str:
    if not has_backward:
        return "it has no backward pass on a CPU"
    return f"torch.compile lacks {' and '.join(missing)}" if (missing := lacking(facts)) else ""


def _of_flash(facts: Facts, *, compiled: bool) -> str:
    if not facts.uses_gpu:
        return "it needs a GPU"
    capability = facts.gpus[0].capability if facts.gpus else None
    if capability is not None and capability < FLASH_CAPABILITY:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, and it needs 8.0"
    if facts.wanted is not None and not set(facts.wanted.dtypes) <= set(HALF):
        return f"it takes {' or '.join(HALF)} only"
    return "it is not tried with compute.compile" if compiled else ""
