"""Weights that are numbers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from scoreonce.schemas.errors import InputError


def require_finite(model: nn.Module, folder: Path) -> None:
    """Raise `InputError` where a weight of the model, loaded from `folder`, is NaN or infinite."""
    bad = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if bad:
        raise InputError(
            "The model has weights that are NaN or infinite.",
            found=f"{len(bad):,} tensors, the first {bad[0]}",
            where=str(folder),
            fix="Download or save the model again; if its training diverged, take an earlier checkpoint.",
        )
