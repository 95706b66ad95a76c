"""For a machine without jaxtyping: its shapes as plain tensors, which is all that a run makes of them."""

from typing import Any


class _Shape:
    def __class_getitem__(cls, tensor_and_shape: tuple[Any, str]) -> Any:
        return tensor_and_shape[0]


Bool = Float = Float64 = Int = Shaped = _Shape
