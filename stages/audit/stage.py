"""audit: what is in the pairs, what the reference makes of them, and what training did with them.

Reads the files of `prepare`, and those of `score`, `train` and `evaluate` where they are there. Writes <out>/audit/:
pairs.parquet (a row per pair, in the order of the prepared files, train first; a column per finding and measure),
audit.json, and index.html for people. Changes nothing in the data.
"""

from __future__ import annotations

import logging
from typing import Any

import polars as pl

from scoreonce.pipeline.audit.checks.check import Check, judged
from scoreonce.pipeline.audit.checks.fail_on import met, parse
from scoreonce.pipeline.audit.checks.judgements import VOTE_CHECKS, judgements
from scoreonce.pipeline.audit.checks.layer import Layer, joined
from scoreonce.pipeline.audit.checks.pair_checks import pair_checks
from scoreonce.pipeline.audit.checks.schema_rules import rule_checks
from scoreonce.pipeline.audit.summary.document import document
from scoreonce.pipeline.audit.summary.shortcuts import model_lead
from scoreonce.pipeline.audit.summary.terminal import audit_lines
from scoreonce.schemas.manifests import AuditManifest, PairsManifest
from scoreonce.stages.audit.inputs import gather
from scoreonce.stages.audit.layers import reference_layer, training_layer
from scoreonce.stages.audit.measures import Inputs, measures
from scoreonce.stages.audit.method_pull import methods_layer
from scoreonce.stages.audit.page import write_page
from scoreonce.stages.audit.workers import ENGINE
from scoreonce.stages.cluster.connection import require_ray
from scoreonce.stages.common.files import atomic, sha256, write_json
from scoreonce.stages.common.frames import scan_frame
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.results import AuditResult
from scoreonce.stages.config import Audit, Run
from scoreonce.stages.data.pair_tables import reference_digest
from scoreonce.stages.data.prepared_pairs import require_pairs
from scoreonce.stages.outputs.at_address import at_address
from scoreonce.stages.outputs.units import LOGS

logger = logging.getLogger(__name__)


@at_address("pairs/*", "reference/*", *LOGS, "evaluate/*", writes="audit")
def audit(run: Run, *, fail_on: str | None = None, lock_timeout: float | None = None) -> AuditResult:
    """Audit the pairs of a run; `exceeded` of the result has what `fail_on` names and was found.

    `fail_on`: names of findings, each perhaps with what it must exceed: "duplicate_pair,contradictory_pair>0.01".
    Another audit of this run is waited for, at most `lock_timeout` seconds. Raises `InputError` where the pairs are not
    prepared as the run file says, a file that it names cannot be read, or a name is unknown.
    """
    thresholds = parse(fail_on or "")
    if run.audit.engine == "ray":
        require_ray("Auditing", ENGINE)
    paths = RunPaths.of(run)
    manifest = require_pairs(run)
    inputs = gather(run, manifest)
    with locked(paths, paths.audit, f"the folder {paths.audit}", timeout=lock_timeout):
        pairs = measures(paths, inputs)
        layers = _layers(run, paths, pairs)
        found = _document(run, manifest, pairs, layers, inputs)
        write_json(paths.audit_summary, {"manifest": _manifest(run, paths).model_dump(mode="json"), **found})
        page = write_page(paths)
    exceeded = met(thresholds, found["findings"])
    logger.info("\n".join([*audit_lines(found), f"Written to {paths.audit}; open {page}"]))
    if exceeded:
        logger.info("\n  ".join(["Met --fail-on:", *exceeded]))
    return AuditResult(paths, found, tuple(exceeded))


def _manifest(run: Run, paths: RunPaths) -> AuditManifest:
    """What was audited: the pairs, the reference scores if there are any, and the settings of the checks."""
    return AuditManifest(
        pairs_manifest_sha256=sha256(paths.pairs_manifest),
        reference_manifest_sha256=reference_digest(paths),
        settings=run.audit.model_dump(mode="json", exclude={"engine"}),  # which decides nothing
        files={paths.audit_pairs.name: sha256(paths.audit_pairs)},
    )


def _document(
    run: Run, manifest: PairsManifest, pairs: pl.LazyFrame, layers: list[Layer], inputs: Inputs
) -> dict[str, Any]:
    """Write pairs.parquet; returns what audit.json holds beside its manifest."""
    paths, pairs = RunPaths.of(run), joined(pairs, layers)
    if "chosen_model" in pairs.collect_schema().names():
        pairs = model_lead(pairs)
    columns = pairs.collect_schema().names()
    checks = [check for check in _checks(run.audit, columns, layers) if check.judgeable(columns)]
    with atomic(paths.audit_pairs) as temporary:
        judged(pairs, checks).sink_parquet(temporary, compression="zstd", compression_level=1)
    data = {
        "source": manifest.config["source"],
        "counts": manifest.counts.model_dump(exclude={"by_reason"}),
        "quarantined_by_reason": manifest.counts.by_reason,
    }
    votes = inputs.annotations.votes if inputs.annotations else None
    judged_repeatedly = judgements(scan_frame(paths.audit_pairs), votes)
    return document(scan_frame(paths.audit_pairs), checks, layers, data, judged_repeatedly, _absent(run.audit, inputs))


def _layers(run: Run, paths: RunPaths, pairs: pl.LazyFrame) -> list[Layer]:
    reference = reference_layer(paths, pairs)
    pulls = reference and methods_layer(run, reference.join(pairs))
    return [layer for layer in (reference, pulls, training_layer(paths, pairs)) if layer is not None]


def _checks(settings: Audit, columns: list[str], layers: list[Layer]) -> list[Check]:
    of_pairs = pair_checks(
        crowded=settings.crowded_prompt, repetition=settings.repetition, similarity=settings.similarity
    )
    return [*rule_checks(columns), *of_pairs, *VOTE_CHECKS, *(check for layer in layers for check in layer.checks)]


def _absent(settings: Audit, inputs: Inputs) -> list[str]:
    """What this audit does not look for, and why."""
    return [
        *([] if inputs.special is not None else ["double BOS, missing EOS: the tokenizer is not at hand"]),
        *([] if settings.near_duplicates else ["near-duplicates: switched off"]),
        *([] if inputs.evaluation is not None else ["contamination: audit.contamination names no file"]),
    ]
