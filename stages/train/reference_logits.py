"""The reference's whole next-token distributions during training: kept by `score`, or from the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from scoreonce.pipeline.batches.device_transfer import moved
from scoreonce.pipeline.batches.prompt_rows import PromptRow, RowLayout, sequence_multiple
from scoreonce.pipeline.batches.read_ahead import ReadAhead
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.head.int8_states import Int8States, restored
from scoreonce.pipeline.head.log_probs import ReferenceDistribution, ReferenceLogits, TopK, TopLogps
from scoreonce.pipeline.methods import Method
from scoreonce.pipeline.training.policy_columns import PolicyColumns
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.identity import completion_id
from scoreonce.stages.common import files
from scoreonce.stages.common.frames import frame_batches
from scoreonce.stages.common.paths import SPLITS, RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.models import lineage, loading
from scoreonce.stages.sharded.layout import agreed_layout
from scoreonce.stages.store.codecs import HIDDEN, HIDDEN_INT8
from scoreonce.stages.store.store import ReferenceStore
from scoreonce.stages.store.tensor_rows import TensorRows

Given = Callable[[Sequence[PromptRow]], ReferenceDistribution]


@dataclass(frozen=True)
class Provider:
    """A function from a micro-batch to its reference logits, and how to tell it of the next step's micro-batches."""

    given: Given
    perturbation: float | None
    rounded: bool
    ahead: ReadAhead | None = None

    def __call__(self, rows: Sequence[PromptRow]) -> ReferenceDistribution:
        """The reference's distributions at the completion tokens of the rows."""
        return self.given(rows)._replace(perturbation=self.perturbation, rounded=self.rounded)

    @property
    def reads_ahead(self) -> bool:
        """Whether it reads from disk, and gains from knowing what comes next."""
        return self.ahead is not None

    def announce(self, batches: Sequence[Sequence[PromptRow]]) -> None:
        """Begin to read what the step after the next needs, where it is read from disk. See `ReadAhead.announce`."""
        if self.ahead is not None:
            self.ahead.announce(map(_ids, batches))

    def close(self) -> None:
        """Stop reading."""
        if self.ahead is not None:
            self.ahead.close()


def provider(run: Run, method: Method, device: torch.device, longest_row: int, policy: TokenScorer) -> Provider | None:
    """What gives a micro-batch's reference logits, or None for a method that does not read them.

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
        given, ahead = _stored(run, device)
        return Provider(given, epsilon, rounded, ahead)
    if run.train.lora_rank and not run.reference.adapter and lineage.starts_from_reference(run):
        given = _live(policy, adapter_off=True)
    else:
        given = _live(_loaded(run, device, longest_row, policy.layout))
    return Provider(given, epsilon, rounded)


def _stored(run: Run, device: torch.device) -> tuple[Given, ReadAhead]:
    paths = RunPaths.of(run)
    assert run.train.full_vocab != "live"
    form = run.score.layer_of(run.train.full_vocab)
    store = ReferenceStore.of_key(paths, files.read_json(paths.reference_manifest)["store_key"])
    states, head = TensorRows(store.tensors(form)), store.head(form).read(device)
    splits = SPLITS if run.evaluate.every is not None else SPLITS[:1]
    batches = (batch for split in splits for batch in frame_batches(paths.pairs(split), ["chosen_id", "rejected_id"]))
    missing = sum(states.missing(ids.drop_nulls()) for batch in batches for ids in batch.iter_columns())
    if missing:
        raise InputError(
            "Some completions have no reference distributions.",
            found=f"{missing:,} of the {'' if len(splits) > 1 else 'training '}completions are not stored",
            where=f"{store.place}/{form}",
            fix=f"Set {states.layer.setting} and run `scoreonce score`: it adds what is missing.",
        )

    names = {HIDDEN: ["hidden"], HIDDEN_INT8: list(Int8States._fields)}.get(form, list(TopK._fields))

    ahead = ReadAhead(lambda ids: [states.read(ids, name) for name in names])

    def read(rows: Sequence[PromptRow]) -> ReferenceDistribution:
        columns = [moved(column, device) for column in ahead(_ids(rows))]
        if form == HIDDEN:
            return ReferenceLogits(columns[0], head)
        if form == HIDDEN_INT8:
            return ReferenceLogits(restored(Int8States(*columns), head.weight.dtype), head)
        ids, logps, tail = columns
        return TopLogps(ids, logps, tail)

    return read, ahead


def _ids(rows: Sequence[PromptRow]) -> tuple[str, ...]:
    # Content is the address: the ids need not travel with the rows.
    return tuple(completion_id(row.prompt, completion) for row in rows for completion in row.completions)


def _live(scorer: TokenScorer, *, adapter_off: bool = False) -> Given:
    def read(rows: Sequence[PromptRow]) -> ReferenceDistribution:
        with scorer.model.disable_adapter() if adapter_off else nullcontext():  # type: ignore[operator]
            # Inside, because an adapter may have trained the head too.
            return ReferenceLogits(scorer.hidden(rows), architecture.head_of(architecture.causal_lm(scorer.model)))

    return read


def _loaded(run: Run, device: torch.device, longest_row: int, layout: RowLayout) -> TokenScorer:
    model = loading.load_reference(run.reference, device).requires_grad_(False)
    multiple = sequence_multiple(run.compute.budget(device.type))
    found = agreed_layout(
        model, run.compute.attention, longest_row, multiple, compiled=run.compute.compile, first=layout
    )
    return TokenScorer(model, found.layout, multiple=multiple)
