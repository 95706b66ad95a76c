"""One layout for all processes: what the first finds exact and fastest, the others take."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from scoreonce.pipeline.batches.prompt_rows import RowLayout
from scoreonce.pipeline.forward.layout_probe import Probe, ProbeOutcome, choose_layout
from scoreonce.stages.sharded.processes import on_first


def agreed_layout(
    model: nn.Module,
    requested: Literal["auto"] | RowLayout,
    longest_row: int,
    multiple: int,
    *,
    compiled: bool = False,
    **options: Any,
) -> Probe:
    """`choose_layout` for a model of which every process has a copy, tried on the first of them.

    Each by its own clock might find another one faster. All processes call this. Raises `InputError`, on all of them,
    as `choose_layout` does.
    """
    tried: list[Probe] = []

    def try_here() -> ProbeOutcome:
        tried.append(choose_layout(model, requested, longest_row, multiple, compiled=compiled, **options))
        return ProbeOutcome.of(model, tried[0])

    outcome = on_first(try_here)
    if not tried:
        outcome.apply(model, compiled=compiled)
    return outcome.probe
