"""What `sample` wrote, for stages that read it: every file is checked before it is handed out."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from scoreonce.schemas.errors import InputError, did_you_mean
from scoreonce.schemas.manifests import SamplesManifest
from scoreonce.schemas.samples import REFERENCE
from scoreonce.stages.common import manifests
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import MANIFEST, SAMPLES, RunPaths


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


def _folder(paths: RunPaths) -> Path:
    return paths.samples(REFERENCE).parent
