"""Weights that are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from scoreonce.schemas.errors import InputError


def require_finite(model: nn.Module, folder: Path) -> None:
    """Raise `InputError` where a weight of the model, loaded from `folder`, is NaN or infinite."""
    bad = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if bad:
        raise not_finite(bad, folder)


def not_finite(names: Sequence[str], folder: Path) -> InputError:
    """The error that tensors of the model in `folder` are not finite; `names` are not empty."""
    return InputError(
        "The model has weights that are NaN or infinite.",
        found=f"{len(names):,} tensors, the first {names[0]}",
        where=str(folder),
        fix="Download or save the model again; if its training diverged, take an earlier checkpoint.",
    )
