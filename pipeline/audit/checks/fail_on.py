"""Findings that make `audit` fail: `duplicate_pair,contradictory_pair>0.01`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scoreonce.pipeline.audit.checks.schema_rules import PREFIX
from scoreonce.schemas.errors import InputError, did_you_mean

_ENTRY = re.compile(r"([\w.-]+)\s*(?:>\s*([0-9.eE+-]+))?")


@dataclass(frozen=True)
class Threshold:
    """A finding and its limit: a share of the pairs if below 1, otherwise a number of pairs."""

    name: str
    above: float = 0.0

    def exceeded(self, finding: Mapping[str, Any]) -> bool:
        """Whether the finding affects more pairs than the limit."""
        return bool((finding["share"] if self.above < 1 else finding["rows"]) > self.above)


def parse(text: str) -> list[Threshold]:
    """The thresholds in `name, name>0.01, name>100`. Raises `InputError` for anything else."""
    return [_threshold(entry.strip()) for entry in text.split(",") if entry.strip()]


def _threshold(entry: str) -> Threshold:
    match = _ENTRY.fullmatch(entry)
    try:
        if match and 0 <= (limit := float(match[2] or 0)) < math.inf:
            return Threshold(match[1], limit)
    except ValueError:
        pass
    raise InputError(
        "A condition of --fail-on is invalid.",
        found=repr(entry),
        where="--fail-on",
        fix="List findings separated by commas, each with an optional limit as a share or a number of pairs: "
        "duplicate_pair,contradictory_pair>0.01,crowded_prompt>100.",
    )


def met(thresholds: Sequence[Threshold], findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The exceeded limits, as text. Raises `InputError` for a finding that this audit does not have."""
    by_name = {finding["name"]: finding for finding in findings}
    for threshold in thresholds:
        # A schema rule is a finding only if it is broken.
        if threshold.name not in by_name and not threshold.name.startswith(PREFIX):
            raise InputError(
                "--fail-on names a finding that this audit does not have.",
                found=f"{threshold.name}.{did_you_mean(threshold.name, list(by_name))}",
                where="--fail-on",
                fix=f"Its findings: {', '.join(by_name)}. Those of the reference need `scoreonce score`.",
            )
    return [
        f"{threshold.name}: {finding['rows']:,} pairs, {finding['share']:.2%}"
        for threshold in thresholds
        if (finding := by_name.get(threshold.name)) and threshold.exceeded(finding)
    ]
