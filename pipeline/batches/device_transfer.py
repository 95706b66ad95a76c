"""Between the host and a GPU without either waiting: the next micro-batch is laid out while this one is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. To a GPU it goes from pinned memory: a copy from any other waits for all queued work."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def index_tensor(indices: Sequence[int], device: torch.device) -> Tensor:
    """Indices as a tensor on a device; indexing a GPU's tensor with a list waits for all queued work."""
    return moved(torch.tensor(indices, dtype=torch.int64), device)


def read_later(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Queue copies to the host behind the work that makes `tensors`; the answer waits for them, not for later work."""
    copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    if not any(tensor.is_cuda for tensor in tensors):
        return lambda: copies
    copied = torch.cuda.Event()
    copied.record()

    def read() -> list[Tensor]:
        copied.synchronize()
        return copies

    return read
