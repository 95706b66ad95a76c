"""The reference's whole next-token distributions during training: kept by `score`, or from the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import polars as pl
import torch

from scoreonce.pipeline.batches.device_transfer import moved
from scoreonce.pipeline.batches.prompt_rows import PromptRow, sequence_multiple
from scoreonce.pipeline.forward import architecture, layout_probe
from scoreonce.pipeline.forward.head import ReferenceDistribution, ReferenceLogits, TopLogps
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.methods import Method
from scoreonce.pipeline.training.policy_columns import PolicyColumns
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.identity import completion_id
from scoreonce.stages.common import files
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.models import lineage, loading
from scoreonce.stages.store.store import TOP_K, ReferenceStore
from scoreonce.stages.store.tensor_rows import TensorRows

Provider = Callable[[Sequence[PromptRow]], ReferenceDistribution]


def provider(run: Run, method: Method, device: torch.device, longest_row: int, policy: TokenScorer) -> Provider | None:
    """A function from a micro-batch to its reference logits, or None for a method that does not read them.

    Kept loaded, the reference is the policy without its adapter where a first LoRA is trained on it, else a second
    model.
    Raises `InputError` where hidden states are missing, or the reference cannot be loaded.
    """
    asked = PolicyColumns.of(method.reads)
    if not asked.needs("distributions", "hidden states"):
        return None
    if asked.needs("hidden states") and run.train.full_vocab == "topk":
        raise InputError(
            f"{method.name} makes its masks from hidden states, which the largest log-probs do not give.",
            found='full_vocab = "topk"',
            where="train.full_vocab",
            fix='Use "hidden" or "live".',
        )
    epsilon = method.hyperparameters["epsilon"] if asked.reads("perturbed", "rounded") else None
    rounded = asked.reads("rounded")
    if run.train.full_vocab != "live":
        given = _stored(run, device)
    elif run.train.lora_rank and not run.reference.adapter and lineage.starts_from_reference(run):
        given = _live(policy, adapter_off=True)
    else:
        given = _live(_loaded(run, device, longest_row))
    return lambda rows: given(rows)._replace(perturbation=epsilon, rounded=rounded)


def _stored(run: Run, device: torch.device) -> Provider:
    paths = RunPaths.of(run)
    form = "hidden" if run.train.full_vocab == "hidden" else f"{TOP_K}{run.score.topk}"
    store = ReferenceStore.of_key(paths, files.read_json(paths.reference_manifest)["store_key"])
    states, head = TensorRows(store.tensors(form)), store.head(form).read(device)
    pairs = pl.read_parquet(paths.pairs("train"), columns=["chosen_id", "rejected_id"], glob=False)
    ids = pl.concat([pairs["chosen_id"], pairs["rejected_id"].alias("chosen_id")]).drop_nulls()
    missing = states.missing(ids.to_list())
    if missing:
        raise InputError(
            "Some completions have no reference distributions.",
            found=f"{missing:,} of the training completions are not stored",
            where=f"{store.place}/{form}",
            fix=f'Set score.full_vocab = "{run.train.full_vocab}" and run `scoreonce score`: it adds what is missing.',
        )

    def read(rows: Sequence[PromptRow]) -> ReferenceDistribution:
        # Content is the address: the ids need not travel with the rows.
        ids = [completion_id(row.prompt, completion) for row in rows for completion in row.completions]
        if form == "hidden":
            return ReferenceLogits(moved(states.read(ids, "hidden"), device), head)
        top_ids, top_logps = (moved(states.read(ids, column), device) for column in ("ids", "logps"))
        return TopLogps(top_ids, top_logps, head.weight.shape[0])

    return read


def _live(scorer: TokenScorer, *, adapter_off: bool = False) -> Provider:
    def read(rows: Sequence[PromptRow]) -> ReferenceDistribution:
        with scorer.model.disable_adapter() if adapter_off else nullcontext():  # type: ignore[operator]
            hidden = scorer.hidden(rows)
        return ReferenceLogits(hidden, architecture.head_of(architecture.causal_lm(scorer.model)))

    return read


def _loaded(run: Run, device: torch.device, longest_row: int) -> TokenScorer:
    reference = run.reference
    model = loading.load_model(
        reference.model, dtype=reference.dtype, device=device, revision=reference.revision, adapter=reference.adapter
    )
    model.requires_grad_(False)
    multiple = sequence_multiple(run.compute.budget(device.type))
    found = layout_probe.choose_layout(
        model, run.compute.attention, longest_row, multiple, compiled=run.compute.compile
    )
    return TokenScorer(model, found.layout, multiple=multiple)
