"""A sharded model as a Hugging Face folder. No process ever holds more of it than one file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping

from scoreonce.pipeline.forward.sharding import whole
from scoreonce.stages.sharded.processes import on_first

LARGEST_FILE = 5 * 10**9  # bytes, as transformers writes


def write_model(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    """Write weights in `dtype`, config and generation config into a folder. All processes call this.

    A model whose weights transformers stores under other names than it keeps them in is gathered whole by the first
    process, which lets transformers write it.
    """
    on_first(lambda: _write_config(model, folder, dtype))
    if get_model_conversion_mapping(model, add_legacy=False):
        gathered = dict(_gathered(model, list(_kept(model)), dtype))
        on_first(lambda: model.save_pretrained(folder, state_dict=gathered))
        on_first(lambda: _write_config(model, folder, dtype))  # transformers wrote the dtype of the parts
        return
    kept = _kept(model)
    plan = split_torch_state_dict_into_shards(
        {name: torch.empty(tensor.shape, dtype=dtype, device="meta") for name, tensor in kept.items()},
        max_shard_size=LARGEST_FILE,
    )
    for file, names in plan.filename_to_tensors.items():
        part = dict(_gathered(model, names, dtype))
        on_first(lambda file=file, part=part: save_file(part, folder / file, {"format": "pt"}))  # type: ignore[misc]
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        on_first(lambda: (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2)))


def gathered_adapter(model: nn.Module) -> dict[str, Tensor]:
    """The LoRA matrices of a sharded model, whole, on the first process; the others get none. All call this."""
    names = [name for name, _ in model.named_parameters() if "lora_" in name]
    return dict(_gathered(model, names, None))


def _kept(model: PreTrainedModel) -> dict[str, Tensor]:
    """What a file holds of a model: parameters, a tied one once, and buffers that are part of its state."""
    parameters = dict(model.named_parameters())
    state = model.state_dict()
    return {**parameters, **{name: state[name] for name, _ in model.named_buffers() if name in state}}


def _gathered(model: nn.Module, names: list[str], dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    state: dict[str, Any] = model.state_dict()
    for name in names:
        tensor = whole(state[name].detach())
        if not dist.is_initialized() or dist.get_rank() == 0:
            converted = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
            yield name, converted.cpu().contiguous()


def _write_config(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    model.config.dtype = str(dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
