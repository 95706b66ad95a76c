"""The reference's whole next-token distributions during training: kept by `score`, or from the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl
import torch

from scoreonce.pipeline import architecture, probe
from scoreonce.pipeline.errors import InputError
from scoreonce.pipeline.forward import TokenScorer
from scoreonce.pipeline.head import ReferenceLogits
from scoreonce.pipeline.methods import Method
from scoreonce.pipeline.policy_columns import FULL_VOCABULARY, PERTURBED, kinds, made_here
from scoreonce.pipeline.rows import PromptRow
from scoreonce.schemas.identity import completion_id
from scoreonce.stages import files, models
from scoreonce.stages.config import Run
from scoreonce.stages.hidden_store import HiddenStates, HiddenStore
from scoreonce.stages.layout import Layout

Provider = Callable[[Sequence[PromptRow]], ReferenceLogits]


def provider(run: Run, method: Method, device: torch.device, longest_row: int) -> Provider | None:
    """What gives a micro-batch's reference logits, or None for a method that does not read them.

    Raises `InputError` where hidden states are missing, or the reference cannot be loaded.
    """
    wanted = kinds(made_here(method.reads))
    if not wanted & FULL_VOCABULARY:
        return None
    epsilon = method.hyperparameters["epsilon"] if wanted & PERTURBED else None
    return _live(run, device, longest_row, epsilon) if run.train.full_vocab == "live" else _stored(run, device, epsilon)


def _stored(run: Run, device: torch.device, epsilon: float | None) -> Provider:
    layout = Layout.of(run)
    store = HiddenStore(layout.store / files.read_json(layout.reference_manifest)["store_key"])
    states, head = HiddenStates(store), store.head(device)
    pairs = pl.read_parquet(layout.pairs("train"), columns=["chosen_id", "rejected_id"])
    missing = states.missing(
        pl.concat([pairs["chosen_id"], pairs["rejected_id"].alias("chosen_id")]).drop_nulls().to_list()
    )
    if missing:
        raise InputError(
            "Some completions have no reference hidden states.",
            found=f"{missing:,} of the training completions are not stored",
            where=str(store.folder),
            fix='Set score.full_vocab = "hidden" and run `scoreonce score`: it adds what is missing.',
        )

    def read(rows: Sequence[PromptRow]) -> ReferenceLogits:
        # Content is the address: the ids need not travel with the rows.
        ids = [completion_id(row.prompt, completion) for row in rows for completion in row.completions]
        return ReferenceLogits(states.read(ids).to(device), head, epsilon)

    return read


def _live(run: Run, device: torch.device, longest_row: int, epsilon: float | None) -> Provider:
    reference = run.reference
    model = models.load_model(
        reference.model, dtype=reference.dtype, device=device, revision=reference.revision, adapter=reference.adapter
    )
    model.requires_grad_(False)
    scorer = TokenScorer(model, probe.choose_layout(model, run.compute.attention, longest_row).layout)
    head = architecture.head_of(architecture.causal_lm(model))
    return lambda rows: ReferenceLogits(scorer.hidden(rows), head, epsilon)
