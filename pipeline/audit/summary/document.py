"""The audit as one document: what `audit.json` holds beside its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from scoreonce.pipeline.audit.checks.check import Check
from scoreonce.pipeline.audit.checks.distributions import PAIR_DISTRIBUTIONS, histograms
from scoreonce.pipeline.audit.checks.layer import Layer
from scoreonce.pipeline.audit.measures.languages import language_mix
from scoreonce.pipeline.audit.summary.findings import findings, worst
from scoreonce.pipeline.audit.summary.shortcuts import shortcuts
from scoreonce.pipeline.audit.summary.sources import by_source, known, measured, pair_measures, whole_measures


def document(
    pairs: pl.LazyFrame,
    checks: Sequence[Check],
    layers: Sequence[Layer],
    data: Mapping[str, Any],
    judged: Mapping[str, Any] | None,
    absent: Sequence[str],
) -> dict[str, Any]:
    """The document of pairs that have a column per check.

    `judged`: the result of `judgements`; `absent`: the checks that this audit could not run.
    """
    columns = pairs.collect_schema().names()
    found = findings(pairs, checks)
    layered = {name: value for layer in layers for name, value in layer.measures.items()}
    measures = known(pair_measures() | layered, columns)
    drawn = [distribution for layer in layers for distribution in layer.distributions]
    return {
        "data": dict(data),
        "reference": None,
        "training": [],
        "findings": found,
        "distributions": histograms(pairs, [*PAIR_DISTRIBUTIONS, *drawn]),
        "shortcuts": shortcuts(pairs),
        "sources": by_source(pairs, measures),
        "measures": measured(pairs, measures | known(whole_measures(), columns)) | _rates(judged),
        "worst": worst(pairs, found),
        "languages": language_mix(pairs),
        "judgements": None if judged is None else dict(judged),
        "not_judged": [*absent, *(what for layer in layers for what in layer.absent)],
        **{name: value for layer in layers for name, value in layer.parts.items()},
    }


def _rates(judged: Mapping[str, Any] | None) -> dict[str, float]:
    names = ("disagreement", "flip_rate", "flip_rate_low", "flip_rate_high", "suggested_label_smoothing")
    return {} if judged is None else {name: judged[name] for name in names}
