"""Which settings to change where training does not fit: each alone, then several together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from scoreonce.pipeline import methods
from scoreonce.pipeline.training.optimizer import ELEMENTWISE
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Run
from scoreonce.stages.estimate.result import Change
from scoreonce.stages.memory.peaks import Sharing, device_of
from scoreonce.stages.sharded.scorer import require_can_be_sharded

SMALLEST_BUDGET = 1_024
EIGHT_BIT = "adamw_torch_8bit"
OFFLOAD = "compute.offload_optimizer"
FOUR_BITS = {"reference.quantization": "nf4"}


@dataclass(frozen=True)
class Setting:
    """A change of the run file or of how the work is shared."""

    name: str
    keys: dict[str, Any]
    sharing: dict[str, Any]

    @property
    def needs_whole_weights(self) -> bool:
        """Whether it is an optimizer, a place for one, or a form of weights that a sharded model cannot have."""
        other = OFFLOAD in self.keys or FOUR_BITS.items() <= self.keys.items()
        return other or self.keys.get("train.optimizer", ELEMENTWISE[0]) not in ELEMENTWISE


def changes(run: Run, sharing: Sharing, memory: int, peak: Callable[[Run, Sharing], int]) -> tuple[Change, ...]:
    """What each setting makes of the peak bytes of training; where none alone fits, also the fewest together that do.

    The order is that of what they change: nothing but time, then rounding, then what is trained.
    """
    settings = list(_settings(run, sharing))
    alone = [_change([setting], run, sharing, memory, peak) for setting in settings]
    if any(change.fits for change in alone):
        return tuple(alone)
    shards = sharing.shard != "none" or any(setting.sharing for setting in settings)
    needed = together = [setting for setting in settings if not (shards and setting.needs_whole_weights)]
    for setting in together:  # leave out what is not needed, what costs most first
        fewer = [other for other in needed if other is not setting]
        if _change(fewer, run, sharing, memory, peak).fits:
            needed = fewer
    return (*alone, _change(needed, run, sharing, memory, peak))


def first_that_fits(found: tuple[Change, ...]) -> Change | None:
    """The change to make first."""
    return next((change for change in found if change.fits), None)


def _change(
    settings: list[Setting], run: Run, sharing: Sharing, memory: int, peak: Callable[[Run, Sharing], int]
) -> Change:
    for setting in settings:
        run, sharing = run.replace(setting.keys), replace(sharing, **setting.sharing)
    size = peak(run, sharing)
    return Change(tuple(setting.name for setting in settings), size, size <= memory)


def _settings(run: Run, sharing: Sharing) -> Iterator[Setting]:
    train, budget = run.train, run.compute.budget(device_of(run.compute))
    if not train.gradient_checkpointing:
        yield _key("train.gradient_checkpointing", True)
    if budget > SMALLEST_BUDGET:
        yield _key("compute.tokens_per_microbatch", max(SMALLEST_BUDGET, budget // 4))
    if sharing.gpus > 1 and sharing.shard == "none" and why_whole(run) is None:
        yield Setting("compute.shard=full", {"compute.shard": "full"}, {"shard": "full"})
    whole = not (train.lora_rank or train.lora_continue)
    on_gpu = device_of(run.compute) == "cuda"
    if train.gradient_checkpointing and on_gpu and not run.compute.offload_activations:
        yield _key("compute.offload_activations", True)
    if sharing.shard != "none" and not sharing.offload and on_gpu:
        yield Setting("compute.offload=true", {"compute.offload": True}, {"offload": True})
    if sharing.shard == "none" and on_gpu and not run.compute.offload_optimizer:
        yield _key(OFFLOAD, True)
    if sharing.shard == "none" and whole and train.optimizer.startswith("adamw_torch") and train.optimizer != EIGHT_BIT:
        yield _key("train.optimizer", EIGHT_BIT)
    if (train.dtype or run.reference.dtype) == "float32":
        # Both, so that the policy still starts from the scored reference.
        yield Setting(
            "reference.dtype=bfloat16",
            {"reference.dtype": "bfloat16"} | ({"train.dtype": "bfloat16"} if train.dtype else {}),
            {},
        )
    if whole:
        yield _key("train.lora_rank", 16)
    if sharing.shard == "none" and not run.reference.quantization:
        rank = {} if train.lora_rank or train.lora_continue else {"train.lora_rank": 16}
        yield Setting(
            " and ".join([*(f"{k}={v}" for k, v in rank.items()), "reference.quantization=nf4"]), FOUR_BITS | rank, {}
        )


def why_whole(run: Run) -> str | None:
    """Why `train` cannot put the run's model in parts; None if it can."""
    settings = run.train
    # The code of a method file is not run here.
    method = (
        None if settings.method_file else methods.resolve(settings.method, settings.hyperparameters, **settings.pieces)
    )
    try:
        require_can_be_sharded(run, method)
    except InputError as error:
        return f"{error.what} {error.found}"
    return None


def _key(key: str, value: Any) -> Setting:
    shown = str(value).lower() if isinstance(value, bool) else value
    return Setting(f"{key}={shown}", {key: value}, {})
