"""The policy in parts: a model without memory, then sharded, then filled from its files.

Each process reads the slices that it keeps, where the files name the tensors as the model does. Otherwise (tensors
that transformers renames or stacks, adapters) the first process loads the model and sends the parts to the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.forward.sharding import own_part
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Run
from scoreonce.stages.models import lineage, loading, policy, policy_manifest
from scoreonce.stages.models.finite import not_finite
from scoreonce.stages.sharded import tensors
from scoreonce.stages.sharded.processes import on_first

PROBED_LAYERS = 2


@dataclass(frozen=True)
class EmptyPolicy:
    """A model whose parameters are to be filled once it is sharded.

    `loaded` has all of them, on the first process alone, where the files cannot be read part by part.
    """

    model: PreTrainedModel
    folder: Path
    by_parts: bool
    loaded: dict[str, Tensor]

    def fill(self, scorer: TokenScorer) -> None:
        """Fill the parameters of the sharded scorer. Raises `InputError` where one is not finite."""
        if self.by_parts:
            tensors.read(self.folder, {n: t for n, t in self.model.state_dict().items() if n in self._stored()})
        else:
            whole: dict[str, Any] = {f"model.{name}": tensor for name, tensor in self.loaded.items()}
            options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
            set_model_state_dict(scorer, whole, options=options)
        bad = [name for name, parameter in self.model.named_parameters() if not own_part(parameter).isfinite().all()]
        found: list[list[str]] = [[]] * dist.get_world_size()
        dist.all_gather_object(found, bad)
        if names := sorted({name for part in found for name in part}):
            raise not_finite(names, self.folder)

    def _stored(self) -> set[str]:
        return set(tensors.shapes(self.folder))


def empty_policy(run: Run) -> EmptyPolicy:
    """The model that training starts from, with parameters on the meta device.

    All weights are trained in float32, in which their parts are kept; LoRA leaves frozen weights in their dtype.
    Raises `InputError` as loading a model does, and for LoRA on a start with an adapter.
    """
    start, settings = lineage.start_of(run), run.train
    if start.adapter and (settings.lora_rank or settings.lora_continue):
        raise InputError(
            "A LoRA on a model with an adapter is not sharded.",
            found=f"compute.shard = {run.compute.shard!r}, and an adapter at {start.adapter}",
            where="compute.shard",
            fix='Merge the adapter first (`scoreonce merge`), or set compute.shard = "none".',
        )
    folder = loading.folder_of(start.model, start.revision)
    dtype = getattr(torch, lineage.dtype_of(run)) if settings.lora_rank else torch.float32
    policy_manifest.require_sound(folder)
    model = _without_memory(loading.config_without_dropout(folder), folder, dtype)
    if not start.adapter and not settings.lora_rank and _reads_by_parts(model, folder):
        return EmptyPolicy(model, folder, True, {})
    loaded: list[PreTrainedModel] = []
    on_first(lambda: loaded.append(policy.load(run, torch.device("cpu")).to(dtype)))
    if loaded:
        return EmptyPolicy(loaded[0], folder, False, dict(loaded[0].state_dict()))
    if settings.lora_rank:
        with init_empty_weights(include_buffers=False):
            model = policy.with_lora(model, run)
    return EmptyPolicy(model, folder, False, {})


def few_layers(run: Run, device: torch.device) -> PreTrainedModel:
    """The first layers of the model that training starts from, of every kind that it has, in its dtype.

    It stands in for the whole model where one process tries layouts. Raises `InputError` as loading does.
    """
    start = lineage.start_of(run)
    folder = loading.folder_of(start.model, start.revision)
    config = loading.config_without_dropout(folder)
    text = config.get_text_config()
    kinds, whole = list(getattr(text, "layer_types", None) or []), text.num_hidden_layers
    count = max([PROBED_LAYERS, *(kinds.index(kind) + 1 for kind in set(kinds))])
    if count < whole:
        for name, value in text.to_dict().items():
            if isinstance(value, list) and len(value) == whole:
                setattr(text, name, value[:count])
        text.num_hidden_layers = count
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would list the layers that are left out
    try:
        model = loading.from_files(folder, config, getattr(torch, lineage.dtype_of(run)))[0]
    finally:
        logging.set_verbosity(verbosity)
    return model.eval().to(device)


def _without_memory(config: PretrainedConfig, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config,
            dtype=dtype,
            attn_implementation=loading.attention_for(config),
            trust_remote_code=loading.trust_remote_code,
        )
    model.tie_weights()
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


def _reads_by_parts(model: PreTrainedModel, folder: Path) -> bool:
    """Whether the files hold just the tensors of the model, by name and shape; what is tied may be left out."""
    if not list(folder.glob("*.safetensors")):
        return False
    try:
        stored = tensors.shapes(folder)
    except Exception:  # whatever is wrong with the files, loading the model says it
        return False
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    parameters = {name for name, _ in model.named_parameters()}
    return stored.items() <= own.items() and parameters <= stored.keys()
