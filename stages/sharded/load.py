"""A model in parts: without memory at first, then sharded, then filled from its files.

Each process reads the slices that it keeps, where the files name the tensors as the model does. Otherwise (tensors
that transformers renames or stacks, adapters that are trained or merged) the first process loads the model and sends
the parts to the others. An adapter of a model to be scored is small: each process keeps all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from scoreonce.pipeline.forward import sharding
from scoreonce.pipeline.forward.layout_probe import ProbeOutcome
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.forward.sharding import own_part
from scoreonce.stages.config import Compute, Run
from scoreonce.stages.models import adapters, folders, lineage, loading, policy
from scoreonce.stages.models.empty import without_weights
from scoreonce.stages.models.lineage import Start
from scoreonce.stages.sharded import tensors
from scoreonce.stages.sharded.limits import require_no_adapter
from scoreonce.stages.sharded.processes import on_first
from scoreonce.stages.weights import policy_manifest
from scoreonce.stages.weights.finite import not_finite

PROBED_LAYERS = 2


@dataclass(frozen=True)
class EmptyModel:
    """A model whose parameters are to be filled once it is sharded.

    `stored` has the tensors that each process reads its parts of: their names in the model, by those in the files.
    Where the files cannot be read so there are none, and the first process has `loaded` all. The matrices of an
    `adapter`, the parameters named `added`, are kept whole by each process.
    """

    model: PreTrainedModel
    folder: Path
    stored: Mapping[str, str]
    loaded: dict[str, Tensor]
    adapter: Path | None = None
    added: frozenset[str] = frozenset()

    def spread(
        self, scorer: TokenScorer, outcome: ProbeOutcome, mesh: DeviceMesh, dtype: torch.dtype, compute: Compute
    ) -> None:
        """Shard the scorer of this model over `mesh`, to compute in `dtype` as the model that was tried, and fill it.

        Raises `InputError` where a weight is not finite.
        """
        device = torch.device(mesh.device_type)
        outcome.apply(scorer.model, compiled=compute.compile)
        added = {parameter for name, parameter in self.model.named_parameters() if name in self.added}
        sharding.shard(scorer, mesh, dtype, replicated=added, offload=compute.offload)
        # All on one device while it is filled: torch does not send parts of a model on several.
        sharding.materialise(scorer, torch.device("cpu") if compute.offload else device)
        self._fill(scorer)
        if compute.offload:
            sharding.move_rest(scorer, device)

    def _fill(self, scorer: TokenScorer) -> None:
        if self.stored:
            state = self.model.state_dict()
            tensors.read(self.folder, {name: state[self.stored[name]] for name in sorted(self.stored)})
        else:
            whole: dict[str, Any] = {f"model.{name}": tensor for name, tensor in self.loaded.items()}
            options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
            set_model_state_dict(scorer, whole, options=options)
        if self.adapter is not None:
            adapters.fill(self.model, self.adapter)
        bad = [name for name, parameter in self.model.named_parameters() if not own_part(parameter).isfinite().all()]
        found: list[list[str]] = [[]] * dist.get_world_size()
        dist.all_gather_object(found, bad)
        if names := sorted({name for part in found for name in part}):
            raise not_finite(names, self.adapter if self.adapter and self.added.issuperset(names) else self.folder)


def empty_policy(run: Run) -> EmptyModel:
    """The model that training starts from, with parameters on the meta device.

    All weights are trained in float32, in which their parts are kept; LoRA leaves frozen weights in their dtype.
    Raises `InputError` as loading a model does, and for LoRA on a start with an adapter.
    """
    start, settings, cpu = lineage.start_of(run), run.train, torch.device("cpu")
    if settings.lora_rank or settings.lora_continue:
        require_no_adapter(start.adapter)
        dtype = getattr(torch, lineage.dtype_of(run))
        empty = _first_loads(start, dtype, lambda: policy.load(run, cpu))
        if not empty.loaded:
            with init_empty_weights(include_buffers=False):
                return replace(empty, model=policy.with_lora(empty.model, run))
        return empty
    if start.adapter:
        return _first_loads(start, torch.float32, lambda: policy.load(run, cpu))
    return _empty(start, torch.float32)


def empty_reference(model: Start, dtype: torch.dtype) -> EmptyModel:
    """A model to be scored, its parameters on the meta device. Raises `InputError` as loading it does."""
    empty = _empty(model, dtype)
    return empty if model.adapter is None else _with_adapter(empty, folders.folder_of(model.adapter))


def _with_adapter(empty: EmptyModel, adapter: Path) -> EmptyModel:
    """The model with an adapter's matrices beside its weights, which have other names then."""
    policy_manifest.require_sound(adapter)
    before = _names(empty.model)
    with init_empty_weights(include_buffers=False):
        wrapped = adapters.shaped(empty.model, adapter)
    names = {name: after for tensor, after in _names(wrapped).items() if (name := before.get(tensor)) is not None}
    return replace(
        empty,
        model=wrapped,
        stored={file: names[name] for file, name in empty.stored.items()},
        loaded={names[name]: tensor for name, tensor in empty.loaded.items()},
        adapter=adapter,
        added=frozenset(name for name, _ in wrapped.named_parameters()) - frozenset(names.values()),
    )


def _names(model: nn.Module) -> dict[Tensor, str]:
    """The name of each parameter and buffer; a tied one has one."""
    return {tensor: name for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def _empty(start: Start, dtype: torch.dtype) -> EmptyModel:
    folder = folders.folder_of(start.model, start.revision)
    policy_manifest.require_sound(folder)
    model = without_weights(folder, dtype, buffers=True)
    if stored := _stored_parts(model, folder):
        return EmptyModel(model, folder, {name: name for name in stored}, {})
    name = str(dtype).removeprefix("torch.")
    return _first_loads(start, dtype, lambda: loading.load_model(str(folder), dtype=name, device="cpu"))


def _first_loads(start: Start, dtype: torch.dtype, load: Callable[[], PreTrainedModel]) -> EmptyModel:
    """The first process loads the whole model, the others make one without memory."""
    folder = folders.folder_of(start.model, start.revision)
    loaded: list[PreTrainedModel] = []
    on_first(lambda: loaded.append(load().to(dtype)))
    if loaded:
        return EmptyModel(loaded[0], folder, {}, dict(loaded[0].state_dict()))
    return EmptyModel(without_weights(folder, dtype, buffers=True), folder, {}, {})


def few_layers(start: Start, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The first layers of a model, of every kind that it has.

    They stand in for the whole model where one process tries layouts. Raises `InputError` as loading does.
    """
    folder = folders.folder_of(start.model, start.revision)
    config = loading.config_without_dropout(folder)
    text = config.get_text_config()
    kinds, whole = list(getattr(text, "layer_types", None) or []), text.num_hidden_layers
    count = max([PROBED_LAYERS, *(kinds.index(kind) + 1 for kind in set(kinds))])
    if count < whole:
        for name, value in text.to_dict().items():
            if isinstance(value, list) and len(value) == whole:
                setattr(text, name, value[:count])
        text.num_hidden_layers = count
    model, _ = loading.from_files(folder, config, dtype)  # the report lists the layers that are left out
    return model.eval().to(device)


def _stored_parts(model: PreTrainedModel, folder: Path) -> frozenset[str]:
    """The tensors in the files, if they are just those of the model by name and shape; what is tied may be left out."""
    if not list(folder.glob("*.safetensors")):
        return frozenset()
    try:
        stored = {name: each.shape for name, each in tensors.stored(folder).items()}
    except Exception:  # whatever is wrong with the files, loading the model says it
        return frozenset()
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    parameters = {name for name, _ in model.named_parameters()}
    return frozenset(stored) if stored.items() <= own.items() and parameters <= stored.keys() else frozenset()
