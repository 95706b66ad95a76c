"""More of the reference during training than sums: whole next-token distributions, and log-probs token by token.

Distributions are kept by `score`, or come from the model itself; the log-probs of tokens are in every store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from tempfile import TemporaryFile

import numpy as np
import numpy.typing as npt
import torch

from scoreonce.pipeline.batches.device_transfer import moved
from scoreonce.pipeline.batches.prompt_rows import PromptRow, RowLayout, sequence_multiple
from scoreonce.pipeline.batches.read_ahead import ReadAhead
from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.head.int8_states import Int8States, restored
from scoreonce.pipeline.head.log_probs import ReferenceDistribution, ReferenceLogits, TopK, TopLogps
from scoreonce.pipeline.head.token_scores import CachedTokens
from scoreonce.pipeline.methods import Method
from scoreonce.pipeline.methods.papers.tis_dpo import token_weights
from scoreonce.pipeline.training.policy_columns import PolicyColumns
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.identity import completion_id
from scoreonce.stages.common import files
from scoreonce.stages.common.frames import frame_batches, frame_of
from scoreonce.stages.common.paths import SPLITS, RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.models import lineage, loading
from scoreonce.stages.sharded.layout import agreed_layout
from scoreonce.stages.store.codecs import HIDDEN, HIDDEN_INT8
from scoreonce.stages.store.index import Ids, Index, StaleIndexError, packed, packed_column
from scoreonce.stages.store.layer import THREADS
from scoreonce.stages.store.store import ReferenceStore
from scoreonce.stages.store.tensor_rows import TensorRows

WEIGHING = ("plus", "minus")  # the further models of TIS-DPO
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


@dataclass(frozen=True)
class TokenLogps:
    """The reference's log-prob of every token of some completions, by memory map: 4 bytes a token, on disk.

    The file has no name and goes with the process.
    """

    index: Index
    starts: npt.NDArray[np.int64]  # (completions,) first token of each, in the order in which they were written
    values: npt.NDArray[np.float32]  # (tokens,) nats

    @classmethod
    def of(cls, store: ReferenceStore, ids: Ids, lengths: npt.NDArray[np.int64]) -> TokenLogps:
        """Those of the completions `ids`, which have so many tokens. Raises `InputError` where one is not stored."""
        ids, first = np.unique(ids, return_index=True)
        lengths = lengths[first].astype(np.int64)
        ends = lengths.cumsum()
        with TemporaryFile() as file:
            file.truncate(max(4, 4 * int(ends[-1] if len(ends) else 0)))
            values = np.memmap(file, np.float32, "r+")
        made = cls(Index.of(ids), ends - lengths, values)
        try:
            made._fill(store, store.scores.index(), ids, lengths)
        except StaleIndexError:
            made._fill(store, store.scores.rebuilt_index(), ids, lengths)
        return made

    def _fill(self, store: ReferenceStore, index: Index, ids: Ids, lengths: npt.NDArray[np.int64]) -> None:
        found, files, rows = index.locate(ids)
        if not found.all():
            raise InputError(
                "Some completions have no reference scores.",
                found=f"{(~found).sum():,} of {len(ids):,} completions are not stored",
                where=store.place,
                fix="Run `scoreonce score` again: it scores only what is missing.",
            )

        def read(number: int) -> None:
            some = np.flatnonzero(files == number)
            shard = store.scores.path_of(index.files[number])
            scores = frame_of(store.table(shard, ["completion_id", "token_logps"]))[rows[some]]
            if not np.array_equal(packed_column(scores["completion_id"]), ids[some]):
                raise StaleIndexError
            logps = scores["token_logps"].explode(empty_as_null=False).to_numpy()
            of_tokens = np.repeat(self.starts[some], lengths[some])
            within = np.arange(len(of_tokens)) - np.repeat(lengths[some].cumsum() - lengths[some], lengths[some])
            self.values[of_tokens + within] = logps

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(read, np.unique(files).tolist()))

    def read(self, completions: Sequence[str], lengths: Sequence[int]) -> npt.NDArray[np.float32]:
        """Those of all tokens of `completions`, which have these lengths, one after the other: (tokens,)."""
        starts = self.starts[self.index.locate(packed(completions)).row]
        parts = [self.values[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        return np.concatenate(parts)


def cached_tokens(
    run: Run, method: Method, device: torch.device
) -> Callable[[Sequence[PromptRow]], CachedTokens] | None:
    """What gives the cached log-probs of a micro-batch's tokens, or None for a method that does not read them.

    Raises `InputError` where a completion is not in the store.
    """
    if not PolicyColumns.of(method.reads).needs("token log-probs"):
        return None
    paths, settings = RunPaths.of(run), method.hyperparameters
    ids, lengths = [], []
    for split in SPLITS if run.evaluate.every is not None else SPLITS[:1]:
        for side in ("chosen", "rejected"):
            for batch in frame_batches(paths.pairs(split), [f"{side}_id", f"{side}_len"]):
                there = batch.drop_nulls(f"{side}_id")
                ids.append(packed_column(there[f"{side}_id"]))
                lengths.append(there[f"{side}_len"].to_numpy().astype(np.int64))

    def known(own: RunPaths) -> TokenLogps:
        store = ReferenceStore.of_key(own, files.read_json(own.reference_manifest)["store_key"])
        return TokenLogps.of(store, np.concatenate(ids), np.concatenate(lengths))

    reference = known(paths)
    further = {name: known(paths.of_other(name)) for name in WEIGHING} if "token_weighting" in settings else {}
    bounds = (settings["log_eps_p"], settings["log_eps_r"]) if "log_eps_p" in settings else None

    def read(rows: Sequence[PromptRow]) -> CachedTokens:
        completions, counts = _ids(rows), [len(completion) for row in rows for completion in row.completions]
        logps = torch.from_numpy(reference.read(completions, counts)).to(device)
        if not further:
            return CachedTokens(logps, bounds)
        plus, minus = (torch.from_numpy(further[name].read(completions, counts)).double() for name in WEIGHING)
        weights = [
            token_weights(
                ratios,
                chosen=number % 2 == 0,
                form=settings["token_weighting"],
                least=settings["weight_least"],
                most=settings["weight_most"],
                last_token=settings["last_token"],
            )
            for number, ratios in enumerate((plus - minus).split(counts))
        ]
        return CachedTokens(logps, bounds, torch.cat(weights).to(device, torch.float32))

    return read


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
