"""Bytes that an optimizer keeps per trained weight, and what a step takes besides."""

from __future__ import annotations

from typing import NamedTuple

from scoreonce.pipeline.memory.weights import FLOAT32

# A moment of 8 bits with a float32 scale per 256 weights, as torchao and bitsandbytes keep it; of 4 bits with a scale
# per 128.
EIGHT_BIT, FOUR_BIT = 1 + FLOAT32 / 256, 0.5 + FLOAT32 / 128
ADAM = 2 * FLOAT32

# By transformers' name, or its beginning: the longest that fits counts.
STATE = {
    "adamw": ADAM,
    "adamw_torch_8bit": 2 * EIGHT_BIT,
    "adamw_torch_4bit": 2 * FOUR_BIT,
    "adamw_bnb_8bit": 2 * EIGHT_BIT,
    "adamw_8bit": 2 * EIGHT_BIT,
    "paged_adamw": ADAM,
    "paged_adamw_8bit": 2 * EIGHT_BIT,
    "ademamix": 3 * FLOAT32,
    "ademamix_8bit": 3 * EIGHT_BIT,
    "paged_ademamix": 3 * FLOAT32,
    "paged_ademamix_8bit": 3 * EIGHT_BIT,
    "lion": FLOAT32,
    "lion_8bit": EIGHT_BIT,
    "paged_lion": FLOAT32,
    "paged_lion_8bit": EIGHT_BIT,
    "rmsprop": FLOAT32,
    "rmsprop_bnb_8bit": EIGHT_BIT,
    "adagrad": FLOAT32,
    "sgd": 0,
    "adafactor": 0.01,  # a row and a column for each matrix
    "schedule_free_adamw": ADAM,
    "schedule_free_radam": ADAM,
    "schedule_free_sgd": FLOAT32,
    "stable_adamw": ADAM,
}
# On a GPU, torch's own optimizers handle all weights at once and make a tensor beside each, unless they are fused.
AT_ONCE = ("adamw_torch", "rmsprop", "adagrad")


class StateSize(NamedTuple):
    """What an optimizer keeps."""

    per_weight: float  # bytes
    known: bool  # False: taken to be Adam's


def state_size(optimizer: str) -> StateSize:
    """The state of an optimizer by transformers' name."""
    fitting = [name for name in STATE if optimizer == name or optimizer.startswith(f"{name}_")]
    return StateSize(STATE[max(fitting, key=len)], True) if fitting else StateSize(ADAM, False)


def step_bytes(optimizer: str, *, device: str, trained: int, largest: int, decays: bool) -> int:
    """Bytes that a step takes besides weights, gradients and state, on "cpu" or "cuda".

    Of `trained` weights in all, `largest` in the largest tensor; `decays`: with weight decay.
    """
    if optimizer == "sgd" and not decays:
        return 0
    if device == "cpu":
        # AdamW makes the root of the second moment, and divides it into another tensor.
        return FLOAT32 * largest * (2 if optimizer.startswith("adamw") else 1)
    return FLOAT32 * trained if optimizer in (*AT_ONCE, "sgd") else 0
