"""The facts of a run, from the files that its stages wrote. What is not there, or is damaged, is not known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from scoreonce.pipeline.pages.ranking import against_reference
from scoreonce.pipeline.verdict import measures
from scoreonce.pipeline.verdict.facts import Facts, HeldOut, Judged, Labels, Training
from scoreonce.pipeline.verdict.series import loss_rise
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage, ReferenceManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256
from scoreonce.stages.common.frames import read_frame, scan_frame
from scoreonce.stages.common.paths import RunPaths, Split
from scoreonce.stages.data.pair_tables import read_audit
from scoreonce.stages.data.samples import demo_entries, judgement_records
from scoreonce.stages.data.training_runs import held_out_rows, metric_lines, step_tables

logger = logging.getLogger(__name__)

T = TypeVar("T")
Row = Mapping[str, Any]


def after_training(paths: RunPaths) -> Facts:
    """What is known of a training run before its policy is evaluated."""
    rows = _known(lambda: _rows(paths)) or []
    paired = bool(rows) and bool(_known(lambda: _paired(paths)))
    held_out = measures.row_facts(rows[-1], paired=paired) if rows and rows[-1]["step"] > 0 else None
    return Facts(_known(lambda: _training(paths)), held_out, _known(lambda: _labels(paths)))


def after_evaluation(paths: RunPaths, trained: RunPaths | None, pairs: pl.DataFrame, figures: Row) -> Facts:
    """What is known of a policy with its evaluated `pairs`; `trained` is the run that made it, None for another's."""
    training = None if trained is None else _known(lambda: _training(trained))
    held_out, labels = _held_out(paths, pairs, figures), _known(lambda: _labels(paths))
    return Facts(training, held_out, labels, _known(lambda: judged(paths)))


def judged(paths: RunPaths) -> Judged | None:
    """What a true reward or a judge says of this label's samples, beside the reference; None where neither does.

    Raises `InputError` where a file is damaged.
    """
    own = [paths.label]
    found = against_reference(demo_entries(paths, own), judgement_records(paths, own), paths.label)
    if found is None or found.of is None:
        return None
    return Judged(found.title, found.grades[paths.label], found.of, found.share)


def run_of(paths: RunPaths, policy: Path) -> RunPaths | None:
    """The training run in this folder whose policy that is, None for a model from elsewhere."""
    folder = policy.resolve().parent
    own = folder.parent == (paths.out / "train").resolve()
    return replace(paths, label=folder.name) if own else None


def _known(read: Callable[[], T]) -> T | None:
    """What `read` gives; None where a file is damaged, which is logged: a verdict is no reason to fail."""
    try:
        return read()
    except (InputError, OSError, pl.exceptions.PolarsError) as error:
        logger.warning("The verdict leaves out what cannot be read. %s", error)
        return None


def _training(paths: RunPaths) -> Training | None:
    metrics = metric_lines(paths)
    if not metrics:
        return None
    lineage, count = manifests.readable(Lineage, paths.lineage), len(metrics)
    settings, hyperparameters = (lineage.train, lineage.method.hyperparameters) if lineage else ({}, {})
    tables, floor = step_tables(paths), hyperparameters.get("beta_floor")
    moved, accuracy = measures.step_facts(scan_frame(tables), count) if tables else (None, None)
    return Training(
        steps=count,
        finished=paths.policy.is_dir(),
        learning_rate=settings.get("learning_rate"),
        first_not_finite=measures.first_not_finite(metrics),
        moved=moved,
        accuracy=accuracy,
        beta_floor=floor,
        at_floor=None if floor is None else measures.at_floor(metrics, floor),
        rise=loss_rise(_rows(paths), metrics),
    )


def _rows(paths: RunPaths) -> list[dict[str, Any]]:
    """The held-out figures while training, up to the step whose weights the policy has."""
    rows, lineage = held_out_rows(paths), manifests.readable(Lineage, paths.lineage)
    if lineage is None or lineage.held_out is None:
        return rows
    return [row for row in rows if row["step"] <= lineage.held_out.policy_step]


def _paired(paths: RunPaths) -> bool:
    """Whether every held-out row is known to have both sides."""
    if not paths.pairs("test").is_file():
        return False
    lengths = read_frame(paths.pairs("test"), ["chosen_len", "rejected_len"])
    return bool(lengths.select(pl.all_horizontal(pl.col("chosen_len", "rejected_len").min() > 0)).item())


def _held_out(paths: RunPaths, pairs: pl.DataFrame, figures: Row) -> HeldOut:
    reference = manifests.readable(ReferenceManifest, paths.reference_manifest)
    if reference is None or not reference.embeddings:
        return measures.held_out_facts(pairs, figures)
    training = _known(lambda: _ches(paths, "train").join(_rows_of(paths), on="pair_id"))
    return measures.held_out_facts(pairs, figures, training_ches=training, ches=_known(lambda: _ches(paths, "test")))


def _ches(paths: RunPaths, split: Split) -> pl.DataFrame:
    return read_frame(paths.reference(split), ["pair_id", "ref_ln_ches"])


def _rows_of(paths: RunPaths) -> pl.DataFrame:
    return read_frame(paths.pairs("train"), ["pair_id", "row"]).unique("pair_id", keep="first", maintain_order=True)


def _labels(paths: RunPaths) -> Labels | None:
    """The repeated judgements of the audit, where it is of these pairs."""
    if not (paths.audit_summary.is_file() and paths.pairs_manifest.is_file()):
        return None
    manifest, document = read_audit(paths)
    if manifest.pairs_manifest_sha256 != sha256(paths.pairs_manifest):
        return None
    return measures.label_facts(document.get("judgements"))
