"""What is said where a GPU's memory runs out, and the peak memory of this process."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from scoreonce.schemas.errors import InputError


@contextmanager
def enough_gpu_memory(kept: str, *, where: str, fix: str) -> Iterator[None]:
    """Raise `InputError` where the GPU's memory runs out inside: what is `kept`, where it happened and what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"The GPU ran out of memory; {kept}.", found=str(error).splitlines()[0], where=where, fix=fix
        ) from None


def peak_bytes(device: torch.device) -> int:
    """Peak bytes so far: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
