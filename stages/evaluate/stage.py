"""How a policy ranks the held-out pairs, by the same scoring code and store as the reference.

    scoreonce evaluate configs/x.toml                        the trained policy; needs train and score
    scoreonce evaluate configs/x.toml --model org/other      any other model of the same tokenizer, for comparison

Writes <out>/evaluate/<label>/: pairs.parquet (one row per distinct held-out pair) and summary.json, last. The policy's
log-probs go into the store under the policy's own key, so evaluating twice scores nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.pipeline.evaluation.summary import evaluation_summary
from scoreonce.pipeline.pages.numbers import percent, shown, signed
from scoreonce.schemas import margins
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import EvaluationPair
from scoreonce.stages.common.files import read_json, read_parquet, sha256, write_json, write_parquet
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Reference, Run
from scoreonce.stages.data.prepared import require_prepared
from scoreonce.stages.models.lineage import start_of
from scoreonce.stages.scoring.job import ScoringJob, open_store
from scoreonce.stages.scoring.pair_view import pair_view
from scoreonce.stages.scoring.run import ScoringResult, score_completions
from scoreonce.stages.store.store import ReferenceStore

_PRINTED = {
    "accuracy": "accuracy",
    "length-normalised": "length_normalised_accuracy",
    "length-controlled": "length_controlled_accuracy",
    "policy's own ranking": "policy_ranking_accuracy",
    "reference's ranking": "reference_ranking_accuracy",
}
_SCORE_FIX = "Run `scoreonce score` with this run file."


def run(run: Run, *, model: str | None = None, label: str | None = None) -> None:
    """Score the policy on the held-out pairs, write the results and print a table.

    `model` is a folder or Hub name, by default `evaluate.model` or what `train` wrote; `label` names the results.
    Raises `InputError` where there is no policy, no held-out pair, or no reference scores that belong to these pairs.
    """
    paths = RunPaths.of(run)
    policy = _policy(run, paths, model or run.evaluate.model)
    prepared = require_prepared(paths)
    if prepared["counts"]["test"] == 0:
        raise InputError(
            "There are no held-out pairs to evaluate on.",
            found="0 pairs in the test split",
            where=str(paths.pairs("test")),
            fix="Set data.test_share above 0, or data.test_split or data.test_source, and run "
            "`scoreonce prepare` and `scoreonce score` again.",
        )
    reference = _reference_manifest(run, paths)
    results = replace(paths, label=label or run.evaluate.label or _label(paths, policy.adapter or policy.model))
    store = open_store(paths.store, policy)
    bare = run.score.model_copy(update={"full_vocab": "none", "mismatched": False, "embeddings": False})
    scoring = score_completions(ScoringJob(paths, ("test",), policy, store, run.compute, bare))
    if scoring.main:
        pairs = _join(paths, store)
        summary = {
            "format": 1,
            "label": results.label,
            **_lineage(policy, store, reference),
            **evaluation_summary(pairs),
        }
        write_parquet(results.evaluation / "pairs.parquet", pairs.to_arrow(compat_level=pl.CompatLevel.oldest()))
        write_json(results.evaluation / "summary.json", summary)
        _print(summary, scoring, results)


def _policy(run: Run, paths: RunPaths, model: str | None) -> Reference:
    """The model to score, described as a reference is: the same code scores both."""
    if model is None and not paths.policy.is_dir():
        raise InputError(
            "There is no trained policy to evaluate.",
            found=f"no folder {paths.policy}",
            where=f"label {paths.label}",
            fix="Run `scoreonce train` with this run file and label, or name a model with --model.",
        )
    name = model or str(paths.policy)
    # The reference itself keeps its revision and adapter; any other model is what its own folder says.
    if name == run.reference.model:
        return run.reference
    trained = Path(name).resolve() == paths.policy.resolve()
    dtype = (run.train.dtype if trained else None) or run.reference.dtype
    if not (Path(name) / "adapter_config.json").is_file():
        return Reference(model=name, dtype=dtype)
    base = start_of(run)  # LoRA was trained on it
    return Reference(model=base.model, revision=base.revision, adapter=name, dtype=dtype)


def _label(paths: RunPaths, model: str) -> str:
    """The training label for a policy that `train` wrote in this run, otherwise the last part of the model's name."""
    path = Path(model).resolve()
    return path.parent.name if path.parent.parent == (paths.out / "train").resolve() else path.name


def _reference_manifest(run: Run, paths: RunPaths) -> dict[str, Any]:
    """What scored the reference columns, after finding that they belong to these pairs and this run file."""
    path = paths.reference_manifest
    if not path.is_file():
        raise InputError(
            "The pairs have no reference scores.",
            found=f"no file {path}",
            where="`out` of the run file",
            fix=_SCORE_FIX,
        )
    manifest: dict[str, Any] = read_json(path)
    expected = {
        "pairs_manifest_sha256": sha256(paths.pairs_manifest),
        "store_key": open_store(paths.store, run.reference).identity.key,
    }
    for key, what in (("pairs_manifest_sha256", "other pairs"), ("store_key", "another reference or dtype")):
        if manifest.get(key) != expected[key]:
            raise InputError(
                f"The reference scores are those of {what}.",
                where=str(path),
                fix=_SCORE_FIX,
                found=f"{key} {manifest.get(key)}, not {expected[key]}",
            )
    scores = paths.reference("test")
    if not scores.is_file() or sha256(scores) != manifest["files"][scores.name]:
        raise InputError(
            "The reference scores of the held-out pairs are damaged or missing.",
            where=str(scores),
            found="not the file that the manifest describes",
            fix=_SCORE_FIX,
        )
    return manifest


def _join(paths: RunPaths, store: ReferenceStore) -> pl.DataFrame:
    """One row of `EvaluationPair` per distinct held-out pair; the manifests vouch that both files hold all of them."""
    policy = pair_view(paths, "test", store).rename(
        {f"ref_{side}_logps": f"policy_{side}_logps" for side in ("chosen", "rejected")}
    )
    scores = _frame(paths.reference("test"), ["pair_id", "ref_chosen_logps", "ref_rejected_logps"])
    sources = _frame(paths.pairs("test"), ["pair_id", "source"]).unique("pair_id", keep="first", maintain_order=True)
    joined = policy.join(sources, on="pair_id", maintain_order="left").join(scores, on="pair_id", maintain_order="left")
    table = joined.with_columns(
        chosen_logratios=margins.logratios("chosen"),
        rejected_logratios=margins.logratios("rejected"),
        margin=margins.margin(),
    )
    return EvaluationPair.validate(table.select(EvaluationPair.column_names()))


def _frame(path: Path, columns: list[str]) -> pl.DataFrame:
    frame = pl.from_arrow(read_parquet(path, columns))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _lineage(policy: Reference, store: ReferenceStore, reference: dict[str, Any]) -> dict[str, Any]:
    record = Path(policy.adapter or policy.model).parent / "lineage.json"
    story: dict[str, Any] = read_json(record) if record.is_file() else {}
    return {
        "model": policy.model,
        "revision": policy.revision,
        "adapter": policy.adapter,
        "dtype": policy.dtype,
        "weights": store.identity.weights,
        "store_key": store.identity.key,
        "method": story.get("method", {}).get("name"),
        "training_identity": story.get("identity"),
        "reference": {key: reference[key] for key in ("model", "weights", "store_key", "dtype")},
        "pairs_manifest_sha256": reference["pairs_manifest_sha256"],
    }


def _print(summary: dict[str, Any], scoring: ScoringResult, results: RunPaths) -> None:
    work = f"{scoring.scored:,} completions scored, {scoring.reused:,} reused"
    print(f"{results.label}: {summary['model']} on {summary['pairs'] + summary['unranked']:,} held-out pairs ({work})")
    for words, name in _PRINTED.items():
        print(f"  {words:<22}{_rate(summary, name)}")
    print(
        f"  {'margin':<22}{signed(summary['margin'])} nats; chosen log-ratio {signed(summary['chosen_logratios'])}, "
        f"rejected {signed(summary['rejected_logratios'])}"
    )
    for row in summary["by_source"] if len(summary["by_source"]) > 1 else []:
        print(f"  {shown(row['source']):<22}{_rate(row, 'accuracy')}  of {row['pairs']:,}")
    if summary["unranked"]:
        print(f"  {summary['unranked']:,} pairs have no rejected side and are not ranked")
    print(f"  results in {results.evaluation}")


def _rate(row: dict[str, Any], name: str) -> str:
    interval = f"  ({percent(row[f'{name}_low'])} to {percent(row[f'{name}_high'])})" if row[name] is not None else ""
    return f"{percent(row[name]):>6}{interval}"
