"""audit: what is in the pairs, what the reference makes of them, and what training did with them.

Reads the files of `prepare`, and those of `score`, `train` and `evaluate` where they are there. Writes <out>/audit/:
pairs.parquet (a row per pair, in the order of the prepared files, train first; a column per finding and measure),
audit.json, and index.html for people. Changes nothing in the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from scoreonce.pipeline.audit.check import Check, judged
from scoreonce.pipeline.audit.document import document
from scoreonce.pipeline.audit.fail_on import met, parse
from scoreonce.pipeline.audit.judgements import VOTE_CHECKS, judgements
from scoreonce.pipeline.audit.layer import Layer, joined
from scoreonce.pipeline.audit.lines import audit_lines
from scoreonce.pipeline.audit.pair_checks import pair_checks
from scoreonce.pipeline.audit.schema_rules import rule_checks
from scoreonce.pipeline.audit.shortcuts import model_lead
from scoreonce.stages import audit_page
from scoreonce.stages.audit_inputs import gather
from scoreonce.stages.audit_layers import reference_layer, training_layer
from scoreonce.stages.audit_measures import Inputs, measures
from scoreonce.stages.audit_methods import methods_layer
from scoreonce.stages.config import Audit, Run
from scoreonce.stages.files import atomic, write_json
from scoreonce.stages.layout import Layout
from scoreonce.stages.prepared import require_prepared

MET = 3  # the exit code of --fail-on


def run(run: Run, *, fail_on: str | None = None) -> int:
    """Audit the pairs of a run; 3 where something that `fail_on` names was found, otherwise 0.

    `fail_on`: names of findings, each perhaps with what it must exceed: "duplicate_pair,contradictory_pair>0.01".
    Raises `InputError` where nothing is prepared, a file that the run file names cannot be read, or a name is unknown.
    """
    thresholds = parse(fail_on or "")
    layout = Layout.of(run)
    manifest = require_prepared(layout)
    inputs = gather(run, manifest)
    pairs = pl.scan_parquet(measures(layout, inputs))
    layers = _layers(run, layout, pairs)
    audit = _audit(run, manifest, pairs, layers, inputs)
    write_json(layout.audit_summary, audit)
    page = audit_page.write(layout)
    print(*audit_lines(audit), f"Written to {layout.audit}; open {page}", sep="\n")
    exceeded = met(thresholds, audit["findings"])
    if exceeded:
        print("Met --fail-on:", *exceeded, sep="\n  ")
    return MET if exceeded else 0


def _audit(
    run: Run, manifest: Mapping[str, Any], pairs: pl.LazyFrame, layers: list[Layer], inputs: Inputs
) -> dict[str, Any]:
    """Write pairs.parquet; what audit.json is to hold."""
    layout, pairs = Layout.of(run), joined(pairs, layers)
    if "chosen_model" in pairs.collect_schema().names():
        pairs = model_lead(pairs)
    columns = pairs.collect_schema().names()
    checks = [check for check in _checks(run.audit, columns, layers) if check.judgeable(columns)]
    with atomic(layout.audit_pairs) as temporary:
        judged(pairs, checks).sink_parquet(temporary, compression="zstd", compression_level=1)
    counts = {name: manifest["counts"].get(name, 0) for name in ("raw", "train", "test", "quarantined")}
    data = {"source": run.data.source, "counts": counts,
            "quarantined_by_reason": manifest["counts"].get("by_reason", {})}  # fmt: skip
    votes = inputs.annotations.votes if inputs.annotations else None
    judged_repeatedly = judgements(pl.scan_parquet(layout.audit_pairs), votes)
    return document(
        pl.scan_parquet(layout.audit_pairs), checks, layers, data, judged_repeatedly, _absent(run.audit, inputs)
    )


def _layers(run: Run, layout: Layout, pairs: pl.LazyFrame) -> list[Layer]:
    reference = reference_layer(layout, pairs)
    pulls = reference and methods_layer(run, reference.join(pairs))
    return [layer for layer in (reference, pulls, training_layer(layout, pairs)) if layer is not None]


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
