"""Checkpoints without pickle: safetensors for tensors, JSON for the rest, a folder that appears whole or not at all.

A checkpoint holds what the next step depends on: weights, float32 masters, optimizer, schedule, method state, RNG and
the step number. The sampler needs no more than that: its order is a function of seed and epoch.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.training.optimizer import Masters
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common import files


@dataclass(frozen=True)
class Training:
    """The moving parts of a training run."""

    model: TokenScorer
    masters: Masters
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler

    @property
    def names(self) -> list[str]:
        """Names of the trained parameters, in the order of the masters. A tied weight has one name."""
        known = {parameter: name for name, parameter in self.model.named_parameters()}
        return [known[parameter] for parameter in self.masters.parameters]


def save(folder: Path, training: Training, step: int, state: dict[str, Tensor], *, keep: int) -> Path:
    """Write `<folder>/step-000010` and drop all but the last `keep` checkpoints."""
    final = folder / f"step-{step:06d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        tensors, plain = _optimizer_state(training)
        weights = dict(zip(training.names, training.masters.masters, strict=True))
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in weights.items()}, temporary / "weights.safetensors"
        )
        save_file(tensors, temporary / "optimizer.safetensors")
        save_file(_random_state(), temporary / "random.safetensors")
        files.write_json(
            temporary / "state.json",
            {
                "format": 1,
                "step": step,
                "method": {name: float(value) for name, value in state.items()},
                "optimizer": plain,
                "scheduler": _plain(training.scheduler.state_dict()),
            },
        )
        for path in temporary.iterdir():
            with path.open("rb+") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))


def restore(checkpoint: Path, training: Training) -> tuple[int, dict[str, Tensor]]:
    """Put a checkpoint back into `training`; return its step and the method's state, float64.

    Raises `InputError` where the checkpoint is damaged.
    """
    try:
        stored = files.read_json(checkpoint / "state.json")
        weights = load_file(checkpoint / "weights.safetensors")
        with torch.no_grad():
            for name, master in zip(training.names, training.masters.masters, strict=True):
                master.copy_(weights[name])
        training.masters.give_weights()
        _restore_optimizer(training, load_file(checkpoint / "optimizer.safetensors"), stored["optimizer"])
        training.scheduler.load_state_dict(stored["scheduler"])
        _restore_random_state(load_file(checkpoint / "random.safetensors"))
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            "A checkpoint cannot be read.",
            found=f"{type(error).__name__}: {error}",
            where=str(checkpoint),
            fix="Delete this folder; training goes on from the checkpoint before it, or from the start.",
        ) from None
    return stored["step"], {name: torch.tensor(value, dtype=torch.float64) for name, value in stored["method"].items()}


def _parameter_names(training: Training) -> list[str]:
    """The name of each parameter in the optimizer's own order, which its state dict counts by."""
    names = dict(zip(training.masters.masters, training.names, strict=True))
    return [names[parameter] for group in training.optimizer.param_groups for parameter in group["params"]]


def _optimizer_state(training: Training) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state, names = training.optimizer.state_dict(), _parameter_names(training)
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{names[index]}/{key}"] = value.contiguous()
            else:
                plain.setdefault(names[index], {})[key] = value
    groups = [_plain(group) for group in state["param_groups"]]
    return tensors, {"state": plain, "groups": groups}


def _restore_optimizer(training: Training, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    index_of = {name: index for index, name in enumerate(_parameter_names(training))}
    state: dict[int, dict[str, Any]] = {index_of[name]: dict(entries) for name, entries in plain["state"].items()}
    for path, tensor in tensors.items():
        name, key = path.rsplit("/", 1)
        state.setdefault(index_of[name], {})[key] = tensor
    training.optimizer.load_state_dict({"state": state, "param_groups": plain["groups"]})


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """The parts of a state dict that JSON holds; functions are made anew from the run file."""
    return {
        key: value for key, value in state.items() if isinstance(value, bool | int | float | str | list | tuple | None)
    }


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
