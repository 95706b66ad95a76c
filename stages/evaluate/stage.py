"""How a policy ranks the held-out pairs, by the same scoring code and store as the reference.

    scoreonce evaluate configs/x.toml                        the trained policy; needs train and score
    scoreonce evaluate configs/x.toml --model org/other      any other model of the same tokenizer, for comparison

Writes <out>/evaluate/<label>/: pairs.parquet (one row per distinct held-out pair), verdict.json (what became of the
training run) and summary.json, last. The policy's log-probs go into the store under the policy's own key, so evaluating
twice scores nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.pipeline.evaluation.summary import evaluation_summary
from scoreonce.pipeline.pages.numbers import percent, shown, signed
from scoreonce.pipeline.verdict.text import document
from scoreonce.pipeline.verdict.verdict import Verdict, verdict
from scoreonce.schemas.manifests import EvaluatedReference, EvaluationManifest, ReferenceManifest
from scoreonce.schemas.names import require_name
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256, write_json, write_parquet
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.results import EvaluateResult
from scoreonce.stages.config import Reference, Run
from scoreonce.stages.data.prepared_pairs import require_held_out, require_pairs
from scoreonce.stages.data.reference_scores import require_reference, require_scores_of_pairs
from scoreonce.stages.data.samples import SAID
from scoreonce.stages.evaluate.table import evaluation_pairs
from scoreonce.stages.models.forward_record import single_layout
from scoreonce.stages.models.named_policy import label_of, lineage_of, policy_of, require_own_label
from scoreonce.stages.outputs.at_address import at_address
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.run import ScoringResult, score_completions
from scoreonce.stages.store.store import ReferenceStore
from scoreonce.stages.verdict import say
from scoreonce.stages.verdict.gather import after_evaluation, run_of

logger = logging.getLogger(__name__)

_PRINTED = {
    "accuracy": "accuracy",
    "length-normalised": "length_normalised_accuracy",
    "length-controlled": "length_controlled_accuracy",
    "policy's own ranking": "policy_ranking_accuracy",
    "reference's ranking": "reference_ranking_accuracy",
}


def written_unit(run: Run, *, model: str | None = None, label: str | None = None, **_: object) -> str:
    """What `evaluate` with these arguments writes, as a unit of `stages.outputs`."""
    paths, name = RunPaths.of(run), model or run.evaluate.model
    policy = run.reference if name == run.reference.model else Reference(model=name or str(paths.policy))
    own = label or run.evaluate.label or label_of(paths, policy)
    return f"evaluate/{require_name(own, 'evaluate.label, or --label')}"


@at_address(
    "pairs/*",
    "reference/*",
    "audit/audit.json",
    "train/*/lineage.json",
    *(f"train/{{label}}/{each}" for each in ("log.json", "metrics.*", "held_out.*", "steps.parquet")),
    "train/{label}/model/*",
    *SAID,
    writes=written_unit,
)
def evaluate(
    run: Run, *, model: str | None = None, label: str | None = None, lock_timeout: float | None = None
) -> EvaluateResult:
    """Score the policy on the held-out pairs and write the results.

    `model` is a folder or Hub name, by default `evaluate.model` or what `train` wrote; `label` names the results.
    Another process that scores the same model, or writes results of that label, is waited for, at most `lock_timeout`
    seconds. Raises `InputError` where there is no policy, no held-out pair, or no reference scores that belong to these
    pairs.
    """
    paths = RunPaths.of(run)
    policy = policy_of(run, paths, (run.replace({"evaluate.model": model}) if model else run).evaluate.model)
    require_held_out(require_pairs(run), paths)
    reference = require_reference(run)
    require_scores_of_pairs(reference, paths)
    name = label or run.evaluate.label or label_of(paths, policy)
    results = replace(paths, label=require_name(name, "evaluate.label, or --label"))
    require_own_label(results, policy, keys="--label, or evaluate.label")
    store = ReferenceStore.of(run, policy)
    bare = run.score.model_copy(update={"full_vocab": "none", "mismatched": False, "embeddings": False})
    job = ScoringJob(paths, ("test",), policy, store, run.compute, bare, layout=single_layout(reference.layout))
    scoring = score_completions(job, lock_timeout=lock_timeout)
    pairs = evaluation_pairs(paths, store)
    figures = evaluation_summary(pairs)
    if scoring.main:
        trained = run_of(results, Path(policy.adapter or policy.model))
        found = verdict(after_evaluation(results, trained, pairs, figures))
        with locked(paths, results.evaluation, f"the evaluation {results.label}", timeout=lock_timeout):
            summary = _write(pairs, figures, found, results, policy, store, reference)
        logger.info("\n".join([*_lines(summary, scoring, results), *say.lines(found)]))
    return EvaluateResult(results, figures)


def _write(
    pairs: pl.DataFrame,
    figures: dict[str, Any],
    found: Verdict,
    results: RunPaths,
    policy: Reference,
    store: ReferenceStore,
    reference: ReferenceManifest,
) -> EvaluationManifest:
    """Write the table, the verdict, and the summary last; returns the summary."""
    table, lineage = results.evaluation_pairs, lineage_of(policy)
    write_parquet(table, pairs.to_arrow(compat_level=pl.CompatLevel.oldest()))
    write_json(results.evaluation_verdict, document(found))
    summary = EvaluationManifest(
        label=results.label,
        model=policy.model,
        revision=policy.revision,
        adapter=policy.adapter,
        dtype=policy.dtype,
        weights=store.identity.weights,
        store_key=store.identity.key,
        method=lineage and lineage.method.name,
        training_identity=lineage and lineage.identity,
        reference=EvaluatedReference(**reference.model_dump(include=set(EvaluatedReference.model_fields))),
        pairs_manifest_sha256=reference.pairs_manifest_sha256,
        figures=figures,
        files={path.name: sha256(path) for path in (table, results.evaluation_verdict)},
    )
    manifests.write(results.evaluation_summary, summary)
    return summary


def _lines(summary: EvaluationManifest, scoring: ScoringResult, results: RunPaths) -> Iterator[str]:
    figures: Mapping[str, Any] = summary.figures
    work = f"{scoring.scored:,} completions scored, {scoring.reused:,} reused"
    pairs = figures["pairs"] + figures["unranked"]
    yield f"{summary.label}: {summary.model} on {pairs:,} held-out pairs ({work})"
    if "unpaired" in figures:
        yield from _unpaired_lines(figures["unpaired"])
    if figures["pairs"] or "unpaired" not in figures:
        for words, name in _PRINTED.items():
            yield f"  {words:<22}{_rate(figures, name)}"
        sides = (signed(figures[f"{side}_logratios"]) for side in ("chosen", "rejected"))
        yield f"  {'margin':<22}{signed(figures['margin'])} nats; chosen log-ratio {{}}, rejected {{}}".format(*sides)
    for row in figures["by_source"] if len(figures["by_source"]) > 1 else []:
        yield f"  {shown(row['source']):<22}{_rate(row, 'accuracy')}  of {row['pairs']:,}"
    if figures["unranked"] and "unpaired" not in figures:
        yield f"  {figures['unranked']:,} pairs have no rejected side and are not ranked"
    yield f"  results in {results.evaluation}"


def _unpaired_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {'good above bad':<22}{percent(figures['ranking']):>6}  of every good completion with every bad one"
    yield (
        f"  {'log-ratio':<22}{signed(figures['chosen_logratios'])} nats of {figures['good']:,} good completions, "
        f"{signed(figures['rejected_logratios'])} of {figures['bad']:,} bad ones"
    )


def _rate(row: Mapping[str, Any], name: str) -> str:
    interval = f"  ({percent(row[f'{name}_low'])} to {percent(row[f'{name}_high'])})" if row[name] is not None else ""
    return f"{percent(row[name]):>6}{interval}"
