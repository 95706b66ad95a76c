"""A layer of an audit: what a later stage adds to the prepared pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from scoreonce.pipeline.audit.checks.check import Check
from scoreonce.pipeline.audit.checks.distributions import Distribution


@dataclass(frozen=True)
class Layer:
    """`join` adds the stage's columns to the pairs; the rest is what to check and measure in them.

    `parts` are copied into the audit's document; `absent` lists the checks that could not be run.
    """

    join: Callable[[pl.LazyFrame], pl.LazyFrame]
    checks: tuple[Check, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    measures: Mapping[str, pl.Expr] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


def joined(pairs: pl.LazyFrame, layers: Sequence[Layer]) -> pl.LazyFrame:
    """The pairs with the columns of every layer."""
    for layer in layers:
        pairs = layer.join(pairs)
    return pairs
