"""Checkpoints without pickle: safetensors for tensors, JSON for the rest; a folder that appears whole or not at all.

Its manifest.json, written last, has the digest of every file. A checkpoint that is damaged is passed over.

A checkpoint holds what the next step depends on: the float32 weights, optimizer, schedule, method state, random state
and the step number. The order of pairs is a function of seed and step, so nothing is kept of it.

Optimizer state is kept by parameter name. `torch.distributed.checkpoint.state_dict` does the same for a module's own
parameters, but refuses to restore where a parameter has not had a gradient yet (an expert that no token was
routed to; torch 2.13), and the float32 masters of a half-precision model are no module's parameters.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.training.optimizer import Masters
from scoreonce.pipeline.training.optimizer_state import plain, put_together, taken_apart
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import CheckpointManifest
from scoreonce.stages.common import files, manifests
from scoreonce.stages.common.digests import digests_now
from scoreonce.stages.common.removal import remove
from scoreonce.stages.data.training_runs import CHECKPOINT_WEIGHTS, checkpoints, step_of
from scoreonce.stages.sharded import tensors as sharded_tensors
from scoreonce.stages.sharded.processes import on_first

logger = logging.getLogger(__name__)

FORMAT = 2
READ_FORMATS = (1, 2)  # version 0.1 wrote format 1, without a manifest
MANIFEST = "manifest.json"
CHECKPOINTS = 10  # over a run, where the run file names no interval
# Of the time since the last one, which writing it may have taken. A model of 0.5 B parameters, its optimizer state and
# their digests take 8 s beside steps of 0.3 s on an H100.
LARGEST_SHARE = 0.05


# The step of another checkpoint without which the one of a step is of no use; None where there is no such one.
Needs = Callable[[int], int | None]


def _nothing(step: int) -> None:
    return None


@dataclass(frozen=True)
class Training:
    """The moving parts of a training run."""

    model: TokenScorer
    masters: Masters
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    sharded: bool = False  # each process has a part of every weight, and all save and restore together
    names: tuple[str, ...] = field(init=False)  # of the trained parameters, in the order of the masters

    def __post_init__(self) -> None:
        # At once: while a sharded model computes, its parameters are others. A tied weight has one name.
        known = {parameter: name for name, parameter in self.model.named_parameters()}
        object.__setattr__(self, "names", tuple(known[parameter] for parameter in self.masters.parameters))


def save(
    folder: Path,
    training: Training,
    step: int,
    state: dict[str, Tensor],
    *,
    keep: int,
    inside: Path,
    log: Mapping[str, str] | None = None,
    needs: Needs = _nothing,
) -> Path:
    """Write `<folder>/step-000010` and remove all but the last `keep` checkpoints, which lie in the folder `inside`.

    `log` has the digests of the step log's parts so far, without which training cannot go on from here. What the last
    `keep` checkpoints need is kept too.
    """
    final = _at(folder, step)
    temporary = folder / f".{final.name}.tmp"
    tensors, rest = taken_apart(training.optimizer, _parameter_names(training))
    weights = {name: tensor.detach() for name, tensor in zip(training.names, training.masters.masters, strict=True)}
    if training.sharded:
        on_first(lambda: _new_folder(temporary, inside))
        sharded_tensors.write(temporary, weights | tensors)
        if dist.get_rank() != 0:
            dist.barrier()  # until the first has given the folder its name
            return final
    else:
        _new_folder(temporary, inside)
    try:
        if not training.sharded:
            save_file({name: tensor.contiguous() for name, tensor in weights.items()}, temporary / CHECKPOINT_WEIGHTS)
            save_file(tensors, temporary / "optimizer.safetensors")
        save_file(_random_state(), temporary / "random.safetensors")
        files.write_json(
            temporary / "state.json",
            {
                "format": FORMAT,
                "step": step,
                "method": {name: value.tolist() for name, value in state.items()},
                "optimizer": rest,
                "scheduler": plain(training.scheduler.state_dict()),
            },
        )
        written = sorted(temporary.iterdir())
        for path in written:
            with path.open("rb+") as handle:
                os.fsync(handle.fileno())
        digests = {path.name: digest for path, digest in zip(written, digests_now(written), strict=True)}
        manifests.write(temporary / MANIFEST, CheckpointManifest(step=step, files=digests, log=dict(log or {})))
        remove(final, inside=inside)
        temporary.rename(final)
    finally:
        remove(temporary, inside=inside)
    if training.sharded:
        dist.barrier()
    # Later ones are damaged, or training would have gone on from them.
    past = [checkpoint for checkpoint in checkpoints(folder) if step_of(checkpoint) <= step]
    needed = {needs(step_of(checkpoint)) for checkpoint in past[-keep:]}
    for old in [*past[:-keep], *(checkpoint for checkpoint in checkpoints(folder) if step_of(checkpoint) > step)]:
        if step_of(old) not in needed:
            remove(old, inside=inside)
    return final


def newest_sound(
    folder: Path, log_damage: Callable[[int, Mapping[str, str]], str | None], needs: Needs = _nothing
) -> Path | None:
    """The newest checkpoint that is as it was written, and up to which the log is; None where there is no checkpoint.

    `log_damage` says what is wrong with the log up to a step, given the digests of its parts. One that `needs` another,
    which is not as it was written, is passed over too. Every byte is read; what is passed over is logged. Raises
    `InputError` where none can be used.
    """
    there, found = checkpoints(folder)[::-1], ""
    for checkpoint in there:
        reason = _damage(checkpoint, log_damage)
        if reason is None and (needed := needs(step_of(checkpoint))) is not None:
            reason = _damage(_at(folder, needed), lambda step, parts: None)
            reason = reason and f"it needs step {needed:,}, and of that {reason}"
        if reason is None:
            return checkpoint
        found = f"{checkpoint.name}: {reason}"
        logger.warning("Passed over a checkpoint: %s", found)
    if not there:
        return None
    raise InputError(
        "No checkpoint of this run can be used.",
        found=f"{len(there)} damaged; {found}",
        where=str(folder),
        fix="Restore the files from a copy, or start this run again: `scoreonce train` with --restart.",
    )


def _damage(checkpoint: Path, log_damage: Callable[[int, Mapping[str, str]], str | None]) -> str | None:
    """What is wrong with a checkpoint or the log up to it, or None."""
    path = checkpoint / MANIFEST
    if not path.exists() and _format(checkpoint) == 1:
        logger.warning("%s was written by an earlier version: nothing says what its bytes should be", checkpoint.name)
        return log_damage(step_of(checkpoint), {})
    try:
        manifest = manifests.read(CheckpointManifest, path)
        changed = manifests.file_changes(manifest, checkpoint)
    except InputError as error:
        return f"{MANIFEST}: {error.found}"
    return f"{changed[0].key} is not what was written" if changed else log_damage(manifest.step, manifest.log)


def restore_sound(folder: Path, step: int, training: Training) -> None:
    """Put the checkpoint of a step back into `training`. Raises `InputError` where it is not as it was written."""
    found = _at(folder, step)
    if reason := _damage(found, lambda step, parts: None):
        raise InputError(
            "The checkpoint of the best evaluation cannot be used.",
            found=reason,
            where=str(found),
            fix="Run `scoreonce train` again: it goes on from a checkpoint before it, or says that there is none.",
        )
    restore(found, training)


def _at(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _format(checkpoint: Path) -> Any:
    try:
        return files.read_json(checkpoint / "state.json")["format"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def restore(checkpoint: Path, training: Training) -> tuple[int, dict[str, Tensor]]:
    """Put a checkpoint back into `training`; return its step and the method's state, float64.

    Raises `InputError` where the checkpoint is of another format version, or of another model or optimizer.
    """
    try:
        stored = files.read_json(checkpoint / "state.json")
        _require_format(checkpoint, stored["format"])
        put_together(
            training.optimizer, _parameter_names(training), _read_tensors(checkpoint, training), stored["optimizer"]
        )
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


def _read_tensors(checkpoint: Path, training: Training) -> dict[str, Tensor]:
    """Fill the weights; return the optimizer's tensors by path, those as large as their weight in the same parts."""
    weights = dict(zip(training.names, training.masters.masters, strict=True))
    if not training.sharded and (checkpoint / CHECKPOINT_WEIGHTS).exists():
        stored = load_file(checkpoint / CHECKPOINT_WEIGHTS)
        with torch.no_grad():
            for name, master in weights.items():
                master.copy_(stored[name])
        return load_file(checkpoint / "optimizer.safetensors")
    optimizer: dict[str, Tensor] = {}
    for path, (shape, dtype) in sharded_tensors.stored(checkpoint).items():
        name, slash, _ = path.partition("/")
        if slash:
            weight = weights[name].detach()
            alike = shape == weight.shape
            optimizer[path] = torch.zeros_like(weight, dtype=dtype) if alike else torch.zeros(shape, dtype=dtype)
    sharded_tensors.read(checkpoint, {name: weight.detach() for name, weight in weights.items()} | optimizer)
    return optimizer


def _new_folder(folder: Path, inside: Path) -> None:
    remove(folder, inside=inside)
    folder.mkdir(parents=True)


def _require_format(checkpoint: Path, found: Any) -> None:
    if found not in READ_FORMATS:
        raise InputError(
            "A checkpoint has a format that this version of scoreonce does not read.",
            found=f"format {found}; this version reads format {' and '.join(map(str, READ_FORMATS))}",
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


@dataclass
class CheckpointInterval:
    """Whether a checkpoint is due: at the interval of the run file.

    By default that is a tenth of the run, or several where writing one takes long.
    """

    steps: int
    fixed: bool
    written: float  # when the last one was; at first, when training began
    seconds: float = 0.0  # that the last one took

    @classmethod
    def of(cls, checkpoint_every: int | None, steps: int) -> CheckpointInterval:
        """`checkpoint_every` of the run file, and the steps of the whole run."""
        return cls(checkpoint_every or math.ceil(steps / CHECKPOINTS), checkpoint_every is not None, time.monotonic())

    def ends_at(self, step: int) -> bool:
        """Whether a checkpoint may be due after this step; the same on every process."""
        return step % self.steps == 0

    def is_worth_it(self) -> bool:
        """Whether the time since the last checkpoint is long beside writing one; for the process that writes them."""
        return self.fixed or self.seconds <= LARGEST_SHARE * (time.monotonic() - self.written)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Note how long writing a checkpoint takes."""
        begun = time.monotonic()
        yield
        self.written = time.monotonic()
        self.seconds = self.written - begun
