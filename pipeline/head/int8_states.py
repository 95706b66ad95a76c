"""Hidden states in 8 bits: a code per element, and a scale for each group of neighbouring elements of a token.

At width 4,096 a token takes 4,096 codes and 128 scales of 2 bytes: 4,352 bytes in place of 8,192 in bfloat16. Methods
read the restored states, so what counts is the error of the distributions that the head makes of them, which
`log_probs.state_error` measures.

Dimensions: tokens, hidden, groups = hidden / GROUP, rounded up.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

GROUP = 32  # elements that share a scale
LARGEST = 127  # code; -128 is not used, so that codes are symmetric
TOKENS_AT_ONCE = 4_096  # in float32: a shard's states together would take twice what they take in bfloat16


class Int8States(NamedTuple):
    """An element is about code * scale of its group; a group of zeros has the scale 0."""

    codes: Int[Tensor, "tokens hidden"]  # int8, -127 to 127
    scales: Float[Tensor, "tokens groups"]  # bfloat16, at least 0: it has the range of float32, so none overflows


def quantised(hidden: Float[Tensor, "tokens hidden"]) -> Int8States:
    """Finite hidden states in 8 bits: scale = max |element| / 127 of a group, code = round(element / scale).

    An error is at most half a scale: one that bfloat16 rounds down, by at most 1/257, leaves the largest element at
    127.5 scales at most. Below 127 * 2^-126 it is at most the element.
    """
    parts = [_quantised(part) for part in hidden.split(TOKENS_AT_ONCE)]
    return Int8States(*(torch.cat(column) for column in zip(*parts, strict=True)))


def restored(states: Int8States, dtype: torch.dtype) -> Float[Tensor, "tokens hidden"]:
    """The hidden states in `dtype`, on the device of the codes."""
    width = states.codes.shape[1]
    made = torch.empty(states.codes.shape, dtype=dtype, device=states.codes.device)
    for start in range(0, len(made), TOKENS_AT_ONCE):
        own = slice(start, start + TOKENS_AT_ONCE)
        scales = states.scales[own].float().repeat_interleave(GROUP, dim=1)[:, :width]
        made[own] = states.codes[own] * scales
    return made


def int8_bytes(width: int) -> int:
    """Bytes of a token's states."""
    return width + 2 * -(-width // GROUP)


def _quantised(hidden: Tensor) -> Int8States:
    width = hidden.shape[1]
    groups = pad(hidden.float(), (0, -width % GROUP)).unflatten(1, (-1, GROUP))
    # Codes are made with the scale as it is stored, so that its rounding is no error of its own.
    scales = (groups.abs().amax(2) / LARGEST).bfloat16()
    codes = groups / scales.float().clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(2)
    return Int8States(
        codes.round_().clamp_(-LARGEST, LARGEST).to(torch.int8).flatten(1)[:, :width].contiguous(), scales
    )
