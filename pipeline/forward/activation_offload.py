"""Activation offloading: what gradient checkpointing keeps waits for the backward pass in the CPU's memory.

Non-reentrant checkpointing saves the inputs of a block through autograd (`torch.utils.checkpoint`), so that hooks of
saved tensors around its call see them, and nothing else.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

LEAST_BYTES = 1 << 20  # a smaller tensor stays: it saves nothing and would be waited for


class ActivationOffload:
    """The inputs of blocks, moved away as they are saved, and back one block before they are needed.

    On a GPU both ways are beside the computation, in a stream of their own. Tensors on the meta device have no copy:
    the memory of a step is counted on them.
    """

    def __init__(self) -> None:
        self._last: weakref.ref[_Away] | None = None

    def around(self, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
        """`checkpoint`, a function that runs a block and recomputes it in the backward pass, with its inputs away."""

        def away(forward: Callable[..., Any], *args: Any) -> Any:
            with saved_tensors_hooks(self._pack, _unpack):
                return checkpoint(forward, *args)

        return away

    def _pack(self, tensor: Tensor) -> Tensor | _Away:
        if tensor.nbytes < LEAST_BYTES:
            return tensor
        away = _Away(tensor, self._last)
        self._last = weakref.ref(away)
        return away


class _Away:
    """A tensor whose values are in the CPU's memory."""

    def __init__(self, tensor: Tensor, before: weakref.ref[_Away] | None) -> None:
        self.device, self.before = tensor.device, before  # before: saved just before, and so needed next
        self.shape, self.dtype = tensor.shape, tensor.dtype
        self.values: Tensor | None = None
        self.back: Tensor | None = None  # on its device again
        if tensor.is_cuda:
            stream = _stream(tensor.device)
            stream.wait_stream(torch.cuda.current_stream(tensor.device))
            self.values = self._empty("cpu", pin_memory=True)
            with torch.cuda.stream(stream):
                self.values.copy_(tensor, non_blocking=True)
            tensor.record_stream(stream)
        elif not tensor.is_meta:
            self.values = self._empty("cpu").copy_(tensor)

    def fetch(self) -> None:
        """Begin to move it back."""
        if self.back is not None:
            return
        if self.device.type == "cuda":
            with torch.cuda.stream(_stream(self.device)):
                self.back = self._filled()
        else:
            self.back = self._filled()

    def tensor(self) -> Tensor:
        """It, on its device, and the one before it on its way."""
        self.fetch()
        back, self.back = self.back, None
        assert back is not None
        if back.is_cuda:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(_stream(self.device))
            back.record_stream(current)
        before = None if self.before is None else self.before()
        if before is not None:
            before.fetch()
        return back

    def _filled(self) -> Tensor:
        back = self._empty(self.device)
        return back if self.values is None else back.copy_(self.values, non_blocking=True)

    def _empty(self, device: torch.device | str, **options: Any) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=device, **options)


def _unpack(saved: Tensor | _Away) -> Tensor:
    return saved if isinstance(saved, Tensor) else saved.tensor()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
