"""audit: what is in the pairs, what the reference makes of them, and what training did with them.

Reads the files of `prepare`, and those of `score`, `train` and `evaluate` where they are there. Writes <out>/audit/:
pairs.parquet (a row per pair, in the order of the prepared files, train first; a column per finding and measure),
audit.json, and index.html for people. Changes nothing in the data.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from scoreonce.stages.audit.inputs import gather
from scoreonce.stages.audit.layers import reference_layer, training_layer
from scoreonce.stages.audit.measures import Inputs, measures
from scoreonce.stages.audit.method_pull import methods_layer
from scoreonce.stages.audit.page import write_page
from scoreonce.stages.common.files import atomic, write_json
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Audit, Run
from scoreonce.stages.data.prepared import require_prepared

MET = 3  # the exit code of --fail-on


def run(run: Run, *, fail_on: str | None = None) -> int:
    """Audit the pairs of a run; 3 where something that `fail_on` names was found, otherwise 0.

    `fail_on`: names of findings, each perhaps with what it must exceed: "duplicate_pair,contradictory_pair>0.01".
    Raises `InputError` where nothing is prepared, a file that the run file names cannot be read, or a name is unknown.
    """
    thresholds = parse(fail_on or "")
    paths = RunPaths.of(run)
    manifest = require_prepared(paths)
    inputs = gather(run, manifest)
    pairs = pl.scan_parquet(measures(paths, inputs))
    layers = _layers(run, paths, pairs)
    audit = _audit(run, manifest, pairs, layers, inputs)
    write_json(paths.audit_summary, audit)
    page = write_page(paths)
    print(*audit_lines(audit), f"Written to {paths.audit}; open {page}", sep="\n")
    exceeded = met(thresholds, audit["findings"])
    if exceeded:
        print("Met --fail-on:", *exceeded, sep="\n  ")
    return MET if exceeded else 0


def _audit(
    run: Run, manifest: Mapping[str, Any], pairs: pl.LazyFrame, layers: list[Layer], inputs: Inputs
) -> dict[str, Any]:
    """Write pairs.parquet; what audit.json is to hold."""
    paths, pairs = RunPaths.of(run), joined(pairs, layers)
    if "chosen_model" in pairs.collect_schema().names():
        pairs = model_lead(pairs)
    columns = pairs.collect_schema().names()
    checks = [check for check in _checks(run.audit, columns, layers) if check.judgeable(columns)]
    with atomic(paths.audit_pairs) as temporary:
        judged(pairs, checks).sink_parquet(temporary, compression="zstd", compression_level=1)
    counts = {name: manifest["counts"].get(name, 0) for name in ("raw", "train", "test", "quarantined")}
    data = {
        "source": run.data.source,
        "counts": counts,
        "quarantined_by_reason": manifest["counts"].get("by_reason", {}),
    }
    votes = inputs.annotations.votes if inputs.annotations else None
    judged_repeatedly = judgements(pl.scan_parquet(paths.audit_pairs), votes)
    return document(
        pl.scan_parquet(paths.audit_pairs), checks, layers, data, judged_repeatedly, _absent(run.audit, inputs)
    )


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
