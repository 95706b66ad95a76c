"""Copies between host and GPU that block neither: the next micro-batch is laid out while this one is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; to a GPU from pinned memory, as a copy from pageable memory waits for all queued work."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def index_tensor(indices: Sequence[int], device: torch.device) -> Tensor:
    """Indices as a tensor on a device: indexing a GPU tensor with a list would wait for all queued work."""
    return moved(torch.tensor(indices, dtype=torch.int64), device)


def read_later(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Queue copies to the host after the work that makes `tensors`; the function returned waits for them alone."""
    copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    if not any(tensor.is_cuda for tensor in tensors):
        return lambda: copies
    copied = torch.cuda.Event()
    copied.record()

    def read() -> list[Tensor]:
        copied.synchronize()
        return copies

    return read
