"""The transformer blocks of a model: exchanging their attention, and what the last one need not compute.

Only positions that predict a completion token are read from the last block. Every other position is still looked at by
them, so its key and value are needed; its own answer is not. Where attention goes row by row (`row_attention`), the
last block therefore attends and feeds forward for those positions alone. With six layers and prompts of two thirds of
a row that is a tenth of a pass; with thirty layers 2 %.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from scoreonce.pipeline.attention.cpu_rows import RowMask

# Share of positions read up to which leaving out the others pays. Measured on two cores of Zen 5 with six layers: rows
# of two thirds prompt score 7 to 9 % and train 9 to 11 % faster, HH pairs (half prompt) 4 and 2 %; where six of seven
# are read it costs 2 %.
WORTHWHILE = 0.75


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks in their order, as transformers names their classes."""
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def exchange_attention(model: PreTrainedModel, name: str, attend: Callable[..., tuple[Tensor, None]]) -> None:
    """Make a model attend by `attend`, as transformers calls it. Raises `ValueError` where that is not possible."""
    AttentionInterface.register(name, attend)
    model.set_attn_implementation(name)
    if model.config._attn_implementation != name:
        raise ValueError("its attention cannot be exchanged")


def restore_attention(model: PreTrainedModel, implementation: str) -> None:
    """Attend by the `implementation` of before, in blocks that are not compiled."""
    model.set_attn_implementation(implementation)
    for block in blocks(model):
        block._compiled_call_impl = None


def answer_where_read(model: PreTrainedModel) -> None:
    """Let the last block of `model` answer, wherever its mask is a `RowMask`, only at positions that are read.

    At the others it gives what their attention and feed-forward would add to as 0. Once per model; again does nothing.
    """
    last = next(reversed(blocks(model)), None)
    if last is None or model.device.type != "cpu":
        return
    if any(isinstance(hook, _Answers) for hook in last._forward_pre_hooks.values()):
        return
    answers = _Answers()
    for part in last.children():
        if _goes_by_position(part, model.config.get_text_config().hidden_size):
            part.register_forward_pre_hook(answers.take)
            part.register_forward_hook(answers.put_back)
    last.register_forward_pre_hook(answers, with_kwargs=True)


class _Answers:
    """The hooks of one block, set anew by each call of it."""

    mask: RowMask | None = None  # None where the block answers everywhere
    length = 0

    def __call__(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask, self.mask = next((x for x in (*args, *kwargs.values()) if isinstance(x, RowMask)), None), None
        # A block that is run again for its gradient may not come by here first, and would find another batch's mask.
        if mask is None or (getattr(block, "gradient_checkpointing", False) and block.training):
            return None
        asked = mask.where_read()
        if len(asked.read) > WORTHWHILE * mask.shape[-1]:
            return None
        self.mask = asked
        replaced = {name: asked if value is mask else value for name, value in kwargs.items()}
        return tuple(asked if value is mask else value for value in args), replaced

    def take(self, part: nn.Module, args: tuple[Any, ...]) -> Any:
        if self.mask is None:
            return None
        self.length = args[0].shape[1]
        return (args[0].index_select(1, self.mask.read), *args[1:])

    def put_back(self, part: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self.mask is None:
            return None
        whole = output.new_zeros(output.shape[0], self.length, output.shape[2])
        return whole.index_copy_(1, self.mask.read, output)


@torch.no_grad()
def _goes_by_position(part: nn.Module, width: int) -> bool:
    """Whether a part of a block multiplies each position by itself, as a feed-forward does: found by running it."""
    weight = next((parameter for parameter in part.parameters() if parameter.ndim > 1), None)
    if weight is None:  # a norm: cheap, and what comes before the keys is needed everywhere
        return False
    x = torch.randn(1, 6, width, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    try:
        whole, later = part(x), part(x[:, 3:])
    except (TypeError, ValueError, RuntimeError, AttributeError):  # attention wants to know more than its input
        return False
    if not isinstance(whole, Tensor) or whole.shape != x.shape:
        return False
    return torch.allclose(whole[:, 3:], later, rtol=0, atol=0.02 * float(whole.abs().max()))
