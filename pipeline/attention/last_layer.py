"""The transformer blocks of a model: replacing their attention, and skipping work of the last one.

Of the last block's output only the positions that predict a completion token are used. The others are still attended
to, so their keys and values are needed, but not their attention output or feed-forward. Where attention runs row by row
(`cpu_rows`), the last block computes these for the used positions alone. With six layers and prompts of two thirds of a
row that saves a tenth of a forward pass; with thirty layers 2 %.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from scoreonce.pipeline.attention.cpu_rows import RowMask
from scoreonce.pipeline.attention.language_model import attention_of, language_model

# Largest share of used positions at which skipping the others pays off. Measured on two cores of Zen 5 with six
# layers: rows of two thirds prompt score 7 to 9 % and train 9 to 11 % faster, HH pairs (half prompt) 4 and 2 %;
# with six of seven positions used it is 2 % slower.
LARGEST_SHARE = 0.75


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The language model's transformer blocks in order, found by the class names that transformers lists for it."""
    reader = language_model(model)
    names = set(reader._no_split_modules or ())
    return [module for module in reader.modules() if type(module).__name__ in names]


def replace_attention(model: PreTrainedModel, name: str, attend: Callable[..., tuple[Tensor, None]]) -> None:
    """Replace a model's attention by `attend`, called as transformers does. Raises `ValueError` where it cannot be."""
    AttentionInterface.register(name, attend)
    language_model(model).set_attn_implementation(name)
    if attention_of(model) != name:
        raise ValueError("its attention cannot be replaced")


def restore_attention(model: PreTrainedModel, implementation: str) -> None:
    """Go back to an earlier attention `implementation`, with blocks that are not compiled."""
    language_model(model).set_attn_implementation(implementation)
    for block in blocks(model):
        block._compiled_call_impl = None


def skip_unused_output(model: PreTrainedModel) -> None:
    """Skip last-layer work where the output is unused, whenever the mask is a `RowMask`.

    There attention and feed-forward add 0 to the residual stream. Calling it again on the same model does nothing.
    """
    last = next(reversed(blocks(model)), None)
    if last is None or model.device.type not in ("cpu", "meta"):  # meta: its memory on a CPU is worked out
        return
    if any(isinstance(hook, _SkipUnused) for hook in last._forward_pre_hooks.values()):
        return
    skip = _SkipUnused()
    for part in last.children():
        if _is_position_wise(part, model.config.get_text_config().hidden_size, model.dtype):
            part.register_forward_pre_hook(skip.select)
            part.register_forward_hook(skip.scatter)
    last.register_forward_pre_hook(skip, with_kwargs=True)


def compute_all_output(model: PreTrainedModel) -> None:
    """Undo `skip_unused_output`, for what is made of every position: how routers share them among experts.

    Also for a block that reads its own attention's output at every position, to attend a second time.
    """
    last = next(reversed(blocks(model)), None)
    for hook in () if last is None else last._forward_pre_hooks.values():
        if isinstance(hook, _SkipUnused):
            hook.skips = False


def computes_all_output(model: PreTrainedModel) -> bool:
    """Whether `compute_all_output` was called on this model."""
    last = next(reversed(blocks(model)), None)
    hooks = () if last is None else last._forward_pre_hooks.values()
    return any(isinstance(hook, _SkipUnused) and not hook.skips for hook in hooks)


class _SkipUnused:
    """The hooks of one block; each call of the block sets them up again."""

    skips = True
    mask: RowMask | None = None  # None: the block computes every position
    length = 0

    def __call__(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask, self.mask = next((x for x in (*args, *kwargs.values()) if isinstance(x, RowMask)), None), None
        if not self.skips or mask is None or not self._knows_recomputation(block):
            return None
        used = mask.for_used()
        if len(used.used) > LARGEST_SHARE * mask.shape[-1]:
            return None
        self.mask = used
        replaced = {name: used if value is mask else value for name, value in kwargs.items()}
        return tuple(used if value is mask else value for value in args), replaced

    def _knows_recomputation(self, block: nn.Module) -> bool:
        """Whether a recomputation of the block in the backward pass, without this hook, gets the mask of its batch.

        transformers keeps the function that recomputes with the block (`GradientCheckpointingLayer`).
        """
        if not (getattr(block, "gradient_checkpointing", False) and block.training):
            return True
        checkpoint = vars(block).get("_gradient_checkpointing_func")
        if checkpoint is not None and not isinstance(checkpoint, _Recomputed):
            vars(block)["_gradient_checkpointing_func"] = _Recomputed(checkpoint, self)
        return checkpoint is not None

    def select(self, part: nn.Module, args: tuple[Any, ...]) -> Any:
        if self.mask is None:
            return None
        self.length = args[0].shape[1]
        return (args[0].index_select(1, self.mask.used.to(args[0].device)), *args[1:])

    def scatter(self, part: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self.mask is None:
            return None
        whole = output.new_zeros(output.shape[0], self.length, output.shape[2])
        return whole.index_copy_(1, self.mask.used.to(output.device), output)


class _Recomputed:
    """A block's checkpoint function whose recomputation finds the mask that the first computation had."""

    def __init__(self, checkpoint: Callable[..., Any], skip: _SkipUnused) -> None:
        self.checkpoint, self.skip = checkpoint, skip

    def __call__(self, forward: Callable[..., Any], *args: Any) -> Any:
        mask = self.skip.mask

        def with_mask(*args: Any) -> Any:
            self.skip.mask = mask  # another batch has been here since
            return forward(*args)

        return self.checkpoint(with_mask, *args)


@torch.no_grad()
def _is_position_wise(part: nn.Module, width: int, dtype: torch.dtype) -> bool:
    """Whether a part of a block treats each position on its own, as a feed-forward does; found by running it."""
    weight = next((parameter for parameter in part.parameters() if parameter.ndim > 1), None)
    if weight is None:  # a norm: cheap, and the one before attention is needed at every position
        return False
    dtype = weight.dtype if weight.is_floating_point() else dtype  # in 4 bits it is bytes
    x = torch.randn(1, 6, width, generator=torch.Generator().manual_seed(0)).to(weight.device, dtype)
    try:
        whole, later = part(x), part(x[:, 3:])
    except (TypeError, ValueError, RuntimeError, AttributeError):  # attention needs more than its input
        return False
    if not isinstance(whole, Tensor) or whole.shape != x.shape:
        return False
    # On the meta device there are no values to compare.
    return x.is_meta or torch.allclose(whole[:, 3:], later, rtol=0, atol=0.02 * float(whole.abs().max()))
