"""The policies that a training run went through: the weights of its checkpoints, put into the loaded policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import CheckpointManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.paths import MANIFEST
from scoreonce.stages.data.training_runs import CHECKPOINT_WEIGHTS, checkpoints, step_of
from scoreonce.stages.scoring.model_scorer import ModelScorer


def earlier_steps(folder: Path, policy: ModelScorer) -> Iterator[int]:
    """Each step of the checkpoints in `folder`, but the last; `policy` has its weights meanwhile.

    The last step's weights are the model's own. Raises `InputError` where the weights are not as they were written, or
    are not those of the whole model, as with LoRA.
    """
    for checkpoint in checkpoints(folder)[:-1]:
        manifest = manifests.read(CheckpointManifest, checkpoint / MANIFEST)
        manifests.require_files(manifest, checkpoint, [CHECKPOINT_WEIGHTS])
        _put(checkpoint / CHECKPOINT_WEIGHTS, policy)
        yield step_of(checkpoint)


@torch.no_grad()
def _put(path: Path, policy: ModelScorer) -> None:
    weights, parameters = load_file(path), dict(policy.scorer.named_parameters())
    if weights.keys() != parameters.keys():
        raise InputError(
            "The demo judges checkpoints of whole models alone.",
            found=f"{len(weights.keys() ^ parameters.keys()):,} names that are not of both model and checkpoint",
            where=str(path),
            fix="Train without lora_rank, or with keep_checkpoints = 1.",
        )
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
