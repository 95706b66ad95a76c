"""Lineage: facts of data and reference, and the settings of each run side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scoreonce.pipeline.pages.numbers import NOTHING, flatten, number, percent, shown
from scoreonce.pipeline.pages.report.data import RunRecord


@dataclass(frozen=True)
class Setting:
    """One setting over all runs, in their order; `differs` where they are not alike."""

    name: str
    values: tuple[str, ...]
    differs: bool


Facts = list[tuple[str, str]]


def data_facts(manifest: Mapping[str, Any]) -> Facts:
    """Inputs, counts and tokenizer of the pairs."""
    if not manifest:
        return []
    counts, tokenizer = manifest.get("counts", {}), manifest.get("tokenizer", {})
    inputs = [
        (f"input {index}", _input(name, details))
        for index, (name, details) in enumerate(_inputs(manifest.get("inputs", {})).items(), start=1)
    ]
    return [
        *([("input", inputs[0][1])] if len(inputs) == 1 else inputs),
        ("raw rows", number(counts.get("raw"))),
        ("pairs to train on", number(counts.get("train"))),
        ("pairs held out", number(counts.get("test"))),
        ("quarantined", f"{number(out := counts.get('quarantined'))} ({_share(out, counts.get('raw'))})"),
        *[(f"truncated: {name}", number(count)) for name, count in flatten(manifest.get("truncated", {})).items()],
        ("merged at the boundary", number(manifest.get("boundary_merged"))),
        (
            "tokenizer",
            f"{tokenizer.get('name', NOTHING)}, {number(tokenizer.get('vocab_size'))} tokens, "
            f"digest {digest(tokenizer.get('digest'))}",
        ),
    ]


def quarantine(manifest: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Reason, rows and share of the raw rows, most frequent first."""
    counts = manifest.get("counts", {})
    reasons = sorted(counts.get("by_reason", {}).items(), key=lambda item: (-item[1], item[0]))
    return [(reason.replace("_", " "), number(count), _share(count, counts.get("raw"))) for reason, count in reasons]


def reference_facts(manifest: Mapping[str, Any]) -> Facts:
    """The reference model, its weights and its numerics."""
    if not manifest:
        return []
    pairs = manifest.get("pairs", {})
    return [
        ("model", shown(manifest.get("model"))),
        ("weights digest", digest(manifest.get("weights"))),
        ("computed in", f"{shown(manifest.get('dtype'))}, head in {shown(manifest.get('head'))}{_bits(manifest)}"),
        ("forward pass", _forward(manifest)),
        ("store key", digest(manifest.get("store_key"))),
        ("pairs scored", f"{number(pairs.get('train'))} to train on, {number(pairs.get('test'))} held out"),
    ]


def _forward(manifest: Mapping[str, Any]) -> str:
    imported = manifest.get("imported")
    if imported is None:
        return f"{shown(manifest.get('layout'))} rows"
    return f"another trainer's: imported from {shown(imported['source'])}, {imported['verified']:,} pairs scored again"


def _bits(manifest: Mapping[str, Any]) -> str:
    return f", linear layers in {plain}" if (plain := manifest.get("quantization")) else ""


def settings(runs: Sequence[RunRecord]) -> list[Setting]:
    """Every setting and every lineage entry of the runs, those that differ first, then by name."""
    tables = [_settings(run) for run in runs]
    names = sorted({name for table in tables for name, value in table.items() if value != NOTHING})
    columns = {name: tuple(table.get(name, NOTHING) for table in tables) for name in names}
    rows = [Setting(name, values, len(set(values)) > 1) for name, values in columns.items()]
    return sorted(rows, key=lambda row: not row.differs)


def _settings(run: RunRecord) -> dict[str, str]:
    # Counts and files of the data are shown once for all runs; the lineage has the resolved training settings.
    lineage = {key: value for key, value in run.lineage.items() if key not in ("format", "label", "identity", "data")}
    asked = {key: run.settings[key] for key in ("train", "compute") if key in run.settings and key not in lineage}
    return {key: _cut(shown(value)) for key, value in flatten({**lineage, **asked}).items()}


def digest(value: Any) -> str:
    """The first twelve digits of a digest."""
    return f"{value[:12]}…" if isinstance(value, str) and len(value) > 16 else shown(value)


def _cut(text: str) -> str:
    is_digest = len(text) >= 32 and all(character in "0123456789abcdef" for character in text)
    return digest(text) if is_digest else text


def _inputs(inputs: Any) -> Mapping[str, Any]:
    return inputs if isinstance(inputs, Mapping) else {str(inputs): {}}


def _input(name: str, details: Any) -> str:
    if not isinstance(details, Mapping):
        return f"{name}: {_cut(shown(details))}"
    known = [("sha256", digest(details["sha256"]))] if "sha256" in details else list(flatten(details).items())
    return ", ".join([name, *(f"{key} {_cut(shown(value))}" for key, value in known)])


def _share(count: Any, whole: Any) -> str:
    return percent(count / whole) if count is not None and whole else NOTHING
