"""What `sample` wrote, and what judges and the demo's true reward say of it; files are checked before they are used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.pipeline.pages.ranking import JudgementRecord
from scoreonce.schemas.errors import InputError, did_you_mean
from scoreonce.schemas.manifests import JudgementManifest, Lineage, SamplesManifest
from scoreonce.schemas.samples import REFERENCE, policy_label
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import read_json
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import MANIFEST, SAMPLES, SCORES, RunPaths

logger = logging.getLogger(__name__)

# The files of all that, for `at_address`.
SAID = (
    "train/*/lineage.json",
    "samples/*/samples.parquet",
    "samples/*/manifest.json",
    "judge/*/manifest.json",
    "judge/*/scores.parquet",
    "judge/*/judgements.parquet",
    "demo.json",
)


def samples_manifest(paths: RunPaths, label: str) -> SamplesManifest:
    """Which model wrote the samples of a label, and how, after checking their file.

    Raises `InputError`, which names the labels that there are, where there are no samples, or they are damaged.
    """
    path = paths.samples(label) / MANIFEST
    if not path.is_file():
        there = sampled_labels(paths)
        raise InputError(
            "There are no samples of this label.",
            found=f"no file {path}.{did_you_mean(label, there)}",
            where=f"label {label}",
            fix=f"Run `scoreonce sample` with --label {label}."
            + (f" There are samples of {', '.join(there)}." if there else ""),
        )
    manifest = manifests.read(SamplesManifest, path)
    manifests.require_files(manifest, path.parent)
    return manifest


def read_samples(paths: RunPaths, label: str) -> pl.DataFrame:
    """The samples of a label: rows of `schemas.tables.Sample`, by prompt and number. Raises as `samples_manifest`."""
    samples_manifest(paths, label)
    return read_frame(paths.samples(label) / SAMPLES)


def sampled_labels(paths: RunPaths) -> list[str]:
    """The labels that have samples; the reference first, if it is among them."""
    found = [path.parent.name for path in _folder(paths).glob(f"[!.]*/{MANIFEST}")]
    return sorted(found, key=lambda label: (label != REFERENCE, label))


def judgement_records(paths: RunPaths, labels: Sequence[str]) -> tuple[JudgementRecord, ...]:
    """What judges said of samples that are still those they were shown, of policies that are still those that wrote
    them, by name.

    Raises `InputError` where a file is damaged.
    """
    own = {label: samples_manifest(paths, label) for label in sampled_labels(paths)}
    digests = {label: manifest.files[SAMPLES] for label, manifest in own.items()}
    found = []
    for path in sorted(paths.judgement("x").parent.glob(f"[!.]*/{MANIFEST}")):
        said = manifests.read(JudgementManifest, path)
        manifests.require_files(said, path.parent)
        if said.samples.items() <= digests.items() and policy_label(said.label) in labels:
            if any(_trained_again(paths, own[label].training_identity, label) for label in said.samples):
                continue
            scores = read_frame(path.parent / SCORES) if SCORES in said.files else None
            found.append(JudgementRecord(said.name, said.label, said.against, said.judge, said.figures, scores))
    return tuple(found)


def best_of_n(paths: RunPaths) -> tuple[dict[str, Any], ...]:
    """The demo's curve of the best of n completions of the reference; empty without one."""
    return tuple(_demo(paths).get("best_of_n", ()))


def demo_entries(paths: RunPaths, labels: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """True rewards of the chosen runs, of policies that are still those that were judged, and of whatever is not a run,
    as the reference; empty without the demo.
    """
    runs = {folder.name for folder in (paths.out / "train").glob("*")}
    return tuple(
        entry
        for entry in _demo(paths)["policies"]
        if entry["label"] not in runs
        or (entry["label"] in labels and not _trained_again(paths, entry.get("training_identity"), entry["label"]))
    )


def _trained_again(paths: RunPaths, judged: str | None, label: str) -> bool:
    """Whether the policy of a label is of another training than what was judged; says so. False where none is known."""
    trained = manifests.readable(Lineage, replace(paths, label=policy_label(label)).lineage)
    if judged is None or trained is None or trained.identity == judged:
        return False
    _say_trained_again(paths.out, label)
    return True


@cache  # several stages of one command ask
def _say_trained_again(out: Path, label: str) -> None:
    logger.warning(f"{label} was trained again since it was judged, which is left out: sample and judge it again")


def _demo(paths: RunPaths) -> dict[str, Any]:
    path = paths.out / "demo.json"
    if not path.is_file():
        return {"policies": []}
    try:
        found = read_json(path)
        whole = {"policies": found} if isinstance(found, list) else found  # version 0.1 wrote the list alone
        return {**whole, "policies": whole["policies"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "A file of the run cannot be read.",
            found=str(error).splitlines()[0],
            where=str(path),
            fix="Run `scoreonce demo judge` again: it rewrites the file.",
        ) from None


def _folder(paths: RunPaths) -> Path:
    return paths.samples(REFERENCE).parent
