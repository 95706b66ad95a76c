"""A model to be scored, in parts over the processes of a mesh, all of which take part in each forward pass."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from scoreonce.pipeline.batches.prompt_rows import RowLayout, sequence_multiple
from scoreonce.pipeline.forward import architecture, layout_probe, sharding
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.head.log_probs import Head
from scoreonce.stages.config import Compute, Reference
from scoreonce.stages.models import loading
from scoreonce.stages.models.lineage import Start
from scoreonce.stages.sharded.limits import require_all_bits
from scoreonce.stages.sharded.load import empty_reference, few_layers
from scoreonce.stages.sharded.processes import on_first


def sharded_reference(
    reference: Reference,
    compute: Compute,
    mesh: DeviceMesh,
    device: torch.device,
    *,
    longest_row: int,
    longest_sequence: int,
    largest_token: int,
    first: RowLayout | None = None,
) -> tuple[TokenScorer, layout_probe.Probe, Head]:
    """The model sharded over `mesh`, the layout that the first process chose for all, and the whole output head.

    `first` is the layout that is tried first, see `choose_layout`.

    Raises `InputError`, on every process, as loading a whole model and choosing its layout do.
    """
    require_all_bits(reference, f"compute.shard = {compute.shard!r}")
    start = Start(reference.model, reference.revision, reference.adapter)
    dtype = getattr(torch, reference.dtype)
    multiple = sequence_multiple(compute.budget(device.type))

    def tried() -> layout_probe.ProbeOutcome:
        model = few_layers(start, dtype, device)
        loading.require_fit(model, start.model, largest_token=largest_token, longest_sequence=longest_sequence)
        found = layout_probe.choose_layout(
            model, compute.attention, longest_row, multiple, compiled=compute.compile, first=first
        )
        return layout_probe.ProbeOutcome.of(model, found)

    empty = empty_reference(start, dtype)
    outcome = on_first(tried)
    scorer = TokenScorer(empty.model, outcome.probe.layout, multiple=multiple)
    empty.spread(scorer, outcome, mesh, dtype, compute)
    head = architecture.head_of(architecture.causal_lm(scorer.model))
    bias = None if head.bias is None else sharding.whole(head.bias.detach())
    return scorer, outcome.probe, head._replace(weight=sharding.whole(head.weight.detach()), bias=bias)


def most(count: int, device: torch.device) -> int:
    """The largest of the processes' counts. All processes call this."""
    found = torch.tensor(count, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)
