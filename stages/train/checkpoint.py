"""Checkpoints without pickle: safetensors for tensors, JSON for the rest; a folder that appears whole or not at all.

A checkpoint holds what the next step depends on: the float32 weights, optimizer, schedule, method state, random state
and the step number. The order of pairs is a function of seed and step, so nothing is kept of it.

Optimizer state is kept by parameter name. `torch.distributed.checkpoint.state_dict` does the same for a module's own
parameters, but refuses to restore where a parameter has not had a gradient yet (an expert that no token was
routed to; torch 2.13), and the float32 masters of a half-precision model are no module's parameters.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.training.optimizer import Masters
from scoreonce.pipeline.training.optimizer_state import plain, put_together, taken_apart
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common import files
from scoreonce.stages.common.removal import remove

FORMAT = 1


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


def save(folder: Path, training: Training, step: int, state: dict[str, Tensor], *, keep: int, inside: Path) -> Path:
    """Write `<folder>/step-000010` and remove all but the last `keep` checkpoints, which lie in the folder `inside`."""
    final = folder / f"step-{step:06d}"
    temporary = folder / f".{final.name}.tmp"
    remove(temporary, inside=inside)
    temporary.mkdir(parents=True)
    try:
        tensors, rest = taken_apart(training.optimizer, _parameter_names(training))
        weights = dict(zip(training.names, training.masters.masters, strict=True))
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in weights.items()}, temporary / "weights.safetensors"
        )
        save_file(tensors, temporary / "optimizer.safetensors")
        save_file(_random_state(), temporary / "random.safetensors")
        files.write_json(
            temporary / "state.json",
            {
                "format": FORMAT,
                "step": step,
                "method": {name: float(value) for name, value in state.items()},
                "optimizer": rest,
                "scheduler": plain(training.scheduler.state_dict()),
            },
        )
        for path in temporary.iterdir():
            with path.open("rb+") as handle:
                os.fsync(handle.fileno())
        remove(final, inside=inside)
        temporary.rename(final)
    finally:
        remove(temporary, inside=inside)
    for old in checkpoints(folder)[:-keep]:
        remove(old, inside=inside)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))


def restore(checkpoint: Path, training: Training) -> tuple[int, dict[str, Tensor]]:
    """Put a checkpoint back into `training`; return its step and the method's state, float64.

    Raises `InputError` where the checkpoint is damaged or of another format version.
    """
    try:
        stored = files.read_json(checkpoint / "state.json")
        _require_format(checkpoint, stored["format"])
        optimizer, names = load_file(checkpoint / "optimizer.safetensors"), _parameter_names(training)
        put_together(training.optimizer, names, optimizer, stored["optimizer"])
        weights = load_file(checkpoint / "weights.safetensors")
        with torch.no_grad():
            for name, master in zip(training.names, training.masters.masters, strict=True):
                master.copy_(weights[name])
        training.masters.give_weights()
        # Its base rates are those of the run file, which are tensors for some optimizers.
        training.scheduler.load_state_dict({key: v for key, v in stored["scheduler"].items() if key != "base_lrs"})
        _restore_random_state(load_file(checkpoint / "random.safetensors"))
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            "A checkpoint cannot be read.",
            found=f"{type(error).__name__}: {error}",
            where=str(checkpoint),
            fix="Delete this folder; training goes on from the checkpoint before it, or from the start.",
        ) from None
    return stored["step"], {name: torch.tensor(value, dtype=torch.float64) for name, value in stored["method"].items()}


def _require_format(checkpoint: Path, found: int) -> None:
    if found != FORMAT:
        raise InputError(
            "A checkpoint has a format that this version of scoreonce does not read.",
            found=f"format {found}; this version reads format {FORMAT}",
            where=str(checkpoint),
            fix="Go on with the version that wrote it, or start this run again: `scoreonce train ... --restart`.",
        )


def _parameter_names(training: Training) -> list[str]:
    """Parameter names in the order by which the optimizer's state dict numbers them."""
    names = dict(zip(training.masters.masters, training.names, strict=True))
    return [names[parameter] for group in training.optimizer.param_groups for parameter in group["params"]]


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
