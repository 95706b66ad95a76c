"""What an estimate says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

GIB = 1 << 30


@dataclass(frozen=True)
class StageEstimate:
    """One stage on one of the GPUs."""

    moment: str  # the moment that takes most
    parts: dict[str, int]  # bytes then
    bytes: int  # of all parts
    fits: bool | None  # None where no memory was given
    positions: int  # that the stage goes through in an epoch; a million where the pairs are not prepared
    operations: float  # floating-point operations for them, padding and recomputation not counted
    seconds: float | None  # for them
    speed: str | None  # where that time comes from


@dataclass(frozen=True)
class Change:
    """Settings to change, and what a GPU takes then."""

    settings: tuple[str, ...]
    bytes: int
    fits: bool


@dataclass(frozen=True)
class Estimate:
    """What training and scoring take of each GPU."""

    model: str  # class
    parameters: int
    trained: int
    dtype: str  # of the policy's forward pass
    device: str  # "cpu" or "cuda"
    gpus: int
    shard: str
    per_machine: int  # GPUs
    memory: float | None  # GiB of a GPU
    tokens_per_microbatch: int
    microbatch: int  # positions of the largest one, padding included
    layout: str
    pairs: int | None  # prepared pairs that are trained on
    train: StageEstimate
    score: StageEstimate
    further: Mapping[str, StageEstimate]  # scoring under each model of [reference.other], after the reference
    changes: tuple[Change, ...]  # each alone, then several together if none alone is enough; of the first that fits
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)
