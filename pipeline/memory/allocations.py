"""Counting the memory of tensors on the meta device, which have sizes and no storage behind them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Bytes of the tensors that operations inside it make, as long as something holds them, autograd included.

    A view counts nothing. What an operation takes within itself and gives back is not seen.
    """

    def __init__(self, *, known: Iterable[Tensor] = ()) -> None:
        """`known` tensors exist already and count nothing."""
        super().__init__()
        self.live = 0  # bytes
        self.peak = 0  # bytes
        self.gradients = 0  # bytes, of those that `add_gradient` was told of
        self.gradients_at_peak = 0
        self._known = [tensor.untyped_storage() for tensor in known]  # held, so that no other takes their identity
        self._seen: dict[int, Any] = {storage._cdata: None for storage in self._known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def add_gradient(self, parameter: Tensor) -> None:
        """Note that the gradient of a parameter is there, and stays; a hook of `register_post_accumulate_grad_hook`."""
        gradient = parameter.grad
        assert gradient is not None
        self.gradients += gradient.untyped_storage().nbytes()

    def _count(self, storage: UntypedStorage) -> None:
        identity, size = storage._cdata, storage.nbytes()
        if identity in self._seen:
            return

        def freed(_: object) -> None:
            del self._seen[identity]
            self.live -= size

        self._seen[identity] = weakref.ref(storage, freed)
        self.live += size
        if self.live > self.peak:
            self.peak, self.gradients_at_peak = self.live, self.gradients
