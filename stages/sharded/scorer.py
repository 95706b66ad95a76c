"""The policy's scorer, in parts over the processes of a mesh."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from scoreonce.pipeline.batches.prompt_rows import RowLayout, sequence_multiple
from scoreonce.pipeline.forward import layout_probe
from scoreonce.pipeline.forward.routing import Router, router_of
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.forward.token_masks import Masking
from scoreonce.pipeline.methods import Method
from scoreonce.pipeline.training.optimizer import ELEMENTWISE
from scoreonce.pipeline.training.policy_columns import PolicyColumns
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Run
from scoreonce.stages.models import lineage, loading, policy
from scoreonce.stages.sharded.limits import require_all_bits, require_no_adapter
from scoreonce.stages.sharded.load import empty_policy, few_layers
from scoreonce.stages.sharded.processes import on_first


def sharded_scorer(
    run: Run,
    mesh: DeviceMesh,
    device: torch.device,
    masking: Callable[[PreTrainedModel], Masking | None],
    *,
    longest_row: int,
    largest_token: int,
    longest_sequence: int,
    first: RowLayout | None = None,
) -> tuple[TokenScorer, layout_probe.Probe, Router | None]:
    """The policy sharded over `mesh`, and the layout that the first process chose for all, on a few layers.

    `first` is the layout that is tried first, see `choose_layout`.

    Raises `InputError`, on every process, as loading a whole model and choosing its layout do.
    """
    compute, settings, start = run.compute, run.train, lineage.start_of(run)
    dtype = getattr(torch, lineage.dtype_of(run))
    multiple = sequence_multiple(compute.budget(device.type))

    def tried() -> tuple[layout_probe.ProbeOutcome, Router | None]:
        model = few_layers(start, dtype, device)
        loading.require_fit(model, start.model, largest_token=largest_token, longest_sequence=longest_sequence)
        found = layout_probe.choose_layout(
            model, compute.attention, longest_row, multiple, compiled=compute.compile, trains=True, first=first
        )
        router = router_of(model) if settings.router_aux_loss else None
        if settings.gradient_checkpointing:
            loading.recompute_activations(model, offload=compute.offload_activations)
            layout_probe.require_same_in_training(model, found.layout, multiple)
        return layout_probe.ProbeOutcome.of(model, found), router

    outcome, router = on_first(tried)
    empty = empty_policy(run)
    if settings.gradient_checkpointing:
        loading.recompute_activations(empty.model, offload=compute.offload_activations)
    scorer = TokenScorer(
        empty.model,
        outcome.probe.layout,
        masking(empty.model),
        multiple=multiple,
        top_k=router and router.top_k,
    )
    empty.spread(scorer, outcome, mesh, dtype, compute)
    return scorer, outcome.probe, router


def require_can_be_sharded(run: Run, method: Method | None) -> None:
    """Raise `InputError` where the run asks for something that needs a whole model on every process.

    `method`: None where it comes from a file whose code has not run; then what it reads is not looked at.
    """
    settings = run.train
    if settings.optimizer not in ELEMENTWISE:
        raise InputError(
            "This optimizer needs whole weights.",
            found=f"train.optimizer = {settings.optimizer!r}, compute.shard = {run.compute.shard!r}",
            where="train.optimizer",
            fix=f"Use one of: {', '.join(ELEMENTWISE)}.",
        )
    require_all_bits(run.reference, f"compute.shard = {run.compute.shard!r}")
    if settings.lora_rank or settings.lora_continue:
        require_no_adapter(lineage.start_of(run).adapter)
    if run.compute.offload_optimizer:
        raise InputError(
            "The optimizer of a sharded model is not offloaded.",
            found=f"compute.offload_optimizer = true, compute.shard = {run.compute.shard!r}",
            where="[compute] of the run file",
            fix="Leave out one of the two.",
        )
    lora = policy.lora_settings(run) if settings.lora_rank else None
    if lora and (more := lora.more_than_matrices + ["lora_dropout"] * bool(lora.dropout)):
        raise InputError(
            "Of LoRA, plain matrices on linear layers are sharded.",
            found=f"{', '.join(more)}, compute.shard = {run.compute.shard!r}",
            where="[train] of the run file",
            fix='Leave these out, or set compute.shard = "none".',
        )
    if (
        method
        and settings.full_vocab == "live"
        and PolicyColumns.of(method.reads).needs("distributions", "hidden states")
    ):
        raise InputError(
            f"{method.name} would need a second whole model on every process.",
            found=f'train.full_vocab = "live", compute.shard = {run.compute.shard!r}',
            where="train.full_vocab",
            fix='Store what it reads: score.full_vocab = "hidden" and train.full_vocab = "hidden".',
        )
