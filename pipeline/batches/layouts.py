"""Which layouts of the forward pass are tried on a device, before any model is known."""

from __future__ import annotations

from scoreonce.pipeline.batches.prompt_rows import RowLayout

FORWARD_ONLY = ("cpu",)  # devices on which flex attention has no backward pass


def candidates(device: str, *, by_rows: bool, compiled: bool) -> tuple[tuple[RowLayout, ...], ...]:
    """Groups of layouts, fastest first, for "cpu" or "cuda"; within a group they are timed, and "padded" comes last.

    `by_rows`: whether the model's attention can go row by row on a CPU. `compiled`: whether its layers are compiled.
    """
    if device == "cuda":
        return (("flex",) if compiled else ("flex", "flash"), ("shared",))
    return (("packed",), ("shared",)) if by_rows else (("shared",),)
