"""What the CPU and torch's build for it can do, found out without a model."""

from __future__ import annotations

from functools import cache

import torch


@cache
def onednn_is_faster() -> bool:
    """Whether this CPU has AVX-512 and torch has oneDNN's float32 product, see `cpu_matmul`."""
    return (
        torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
