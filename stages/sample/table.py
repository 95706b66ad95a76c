"""The samples of one label as a table with the log-probs of each, and the manifest that vouches for it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import polars as pl
from transformers import GenerationConfig, PreTrainedTokenizerBase

from scoreonce.schemas import identity
from scoreonce.schemas.manifests import EvaluatedReference, SampledPrompts, SamplesManifest
from scoreonce.schemas.tables import Sample
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256, write_parquet
from scoreonce.stages.common.paths import MANIFEST, SAMPLES, RunPaths
from scoreonce.stages.config import Reference, Run
from scoreonce.stages.models.forward_record import single_layout
from scoreonce.stages.models.loading import resolve_device
from scoreonce.stages.models.named_policy import lineage_of
from scoreonce.stages.sample.parts import Parts
from scoreonce.stages.sample.prompts import Prompts, columns_of
from scoreonce.stages.sample.scores import completion_logps
from scoreonce.stages.sample.settings import recorded
from scoreonce.stages.sample.texts import completion_texts
from scoreonce.stages.store.store import ReferenceStore

if TYPE_CHECKING:
    from scoreonce.pipeline.batches.prompt_rows import RowLayout

PACKAGES = ("scoreonce", "torch", "transformers")


@dataclass(frozen=True)
class Made:
    """How the samples of a label were made."""

    label: str
    policy: Reference
    weight: float | None  # of the policy in a mixture
    config: GenerationConfig
    ends: list[int]
    whole: bool  # of the model's whole distribution
    store: ReferenceStore
    reference: ReferenceStore


def write_samples(
    run: Run,
    made: Made,
    prompts: Prompts,
    parts: Parts,
    tokenizer: PreTrainedTokenizerBase,
    *,
    lock_timeout: float | None,
) -> None:
    """Score what was written, and write the table, the manifest last; nothing where they are as they would be.

    The parts are removed, but for completions that were not asked for this time, which stay.
    """
    folder = RunPaths.of(run).samples(made.label)
    written = parts.written()
    chosen = _chosen(written, prompts, run.sample.n)
    wanted = {"prompts": _record(prompts).model_dump(mode="json"), "n": run.sample.n}
    if (folder / MANIFEST).exists() and not manifests.changes(SamplesManifest, folder / MANIFEST, wanted):
        return
    table = _scored(run, made, _with_texts(chosen, tokenizer), lock_timeout)
    parts.keep_finished()
    path = folder / SAMPLES
    write_parquet(path, table.to_arrow(compat_level=pl.CompatLevel.oldest()))
    manifests.write(folder / MANIFEST, _manifest(run, made, prompts, {SAMPLES: sha256(path)}))
    parts.remove(keep=written.join(chosen, on=["prompt_id", "sample"], how="anti", maintain_order="left"))


def _chosen(written: pl.DataFrame, prompts: Prompts, n: int) -> pl.DataFrame:
    """The completions that are asked for, by prompt in order and number, with the columns of their prompts."""
    asked = columns_of(prompts.each).join(
        pl.DataFrame({"sample": pl.int_range(n, eager=True, dtype=pl.Int32)}), how="cross"
    )
    return asked.join(written, on=["prompt_id", "sample"], maintain_order="left")


def _with_texts(chosen: pl.DataFrame, tokenizer: PreTrainedTokenizerBase) -> pl.DataFrame:
    prompts, completions = chosen["prompt_ids"].to_list(), chosen["completion_ids"].to_list()
    ids = [identity.completion_id(*each) for each in zip(prompts, completions, strict=True)]
    return chosen.with_columns(
        completion_texts(tokenizer, prompts, completions),
        completion_id=pl.Series(ids, dtype=pl.String),
        completion_len=pl.col("completion_ids").list.len().cast(pl.Int32),
    )


def _scored(run: Run, made: Made, frame: pl.DataFrame, lock_timeout: float | None) -> pl.DataFrame:
    """The table with the log-probs of its completions: the reference's first, whose layout the policy's take."""
    reference = completion_logps(
        run, made.label, frame, run.reference, made.reference, layout=None, lock_timeout=lock_timeout
    )
    if made.weight is not None:
        own = frame["logps"].clip(upper_bound=0.0)
    elif made.store.identity.key == made.reference.identity.key:
        own = reference
    else:
        own = completion_logps(
            run, made.label, frame, made.policy, made.store, layout=_layout(made.reference), lock_timeout=lock_timeout
        )
    whole = frame.with_columns(sampler_logps=own, ref_logps=reference)
    return Sample.validate(whole.select(Sample.column_names()))


def _layout(store: ReferenceStore) -> RowLayout | None:
    shards = store.shards()
    return single_layout(store.sidecar(shards[-1])["provenance"].get("layout", "")) if shards else None


def _record(prompts: Prompts) -> SampledPrompts:
    return SampledPrompts(
        source=prompts.source,
        prompts=len(prompts.each),
        prompt_ids=prompts.digest,
        pairs_manifest_sha256=prompts.pairs_manifest_sha256,
    )


def _manifest(run: Run, made: Made, prompts: Prompts, files: dict[str, str]) -> SamplesManifest:
    policy, lineage = made.policy, lineage_of(made.policy)
    device = resolve_device(run.compute.device)
    return SamplesManifest(
        label=made.label,
        model=policy.model,
        revision=policy.revision,
        adapter=policy.adapter,
        dtype=policy.dtype,
        weights=made.store.identity.weights,
        store_key=made.store.identity.key,
        method=lineage and lineage.method.name,
        training_identity=lineage and lineage.identity,
        realigned=made.weight,
        reference=EvaluatedReference(
            model=run.reference.model,
            weights=made.reference.identity.weights,
            store_key=made.reference.identity.key,
            dtype=run.reference.dtype,
        ),
        prompts=_record(prompts),
        generation=recorded(made.config),
        ends=made.ends,
        seed=run.sample.seed,
        n=run.sample.n,
        whole_distribution=made.whole,
        computed={"device": device.type, **{name: version(name) for name in PACKAGES}},
        files=files,
    )
