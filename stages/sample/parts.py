"""Completions on disk while more are being written: a file per batch, so that an interrupted command goes on.

    <out>/samples/<label>/parts/00000.parquet    prompt_id, sample, completion_ids, finished, logps
    <out>/samples/<label>/parts/00000.json       its digest, and what decides its samples; written last

They are removed when samples.parquet holds them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import SamplesManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import write_parquet
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import MANIFEST, SAMPLES
from scoreonce.stages.common.removal import remove as remove_folder
from scoreonce.stages.store.sidecar import commit, file_damage, read_sidecar, remove, sidecar_of

logger = logging.getLogger(__name__)

SCHEMA = pl.Schema(
    {
        "prompt_id": pl.String(),
        "sample": pl.Int32(),
        "completion_ids": pl.List(pl.Int32),
        "finished": pl.Boolean(),
        "logps": pl.Float64(),  # nats, of a mixture of two models; null of one
    }
)


class Written(NamedTuple):
    """One completion, by its prompt and number."""

    prompt_id: str
    sample: int
    completion_ids: list[int]
    finished: bool
    logps: float | None


class Parts:
    """The parts of one label, for the only process that writes them. `decides` has all that decides its samples."""

    def __init__(self, folder: Path, decides: Mapping[str, Any]) -> None:
        self.folder, self._decides = folder, dict(decides)

    def written(self) -> pl.DataFrame:
        """Every completion that is there, of the parts and of samples.parquet, each once.

        What is damaged is removed, which is printed, and sampled again. Raises `InputError` where they were sampled
        otherwise than is asked for now.
        """
        found = [*self._finished(), *(frame for path in self._files() for frame in self._part(path))]
        return pl.concat([pl.DataFrame(schema=SCHEMA), *found]).unique(
            ["prompt_id", "sample"], keep="first", maintain_order=True
        )

    def keep_finished(self) -> None:
        """Write as a part what samples.parquet holds, which is about to be replaced."""
        for frame in self._finished():
            self.add(frame)

    def add(self, rows: Sequence[Written] | pl.DataFrame) -> None:
        """Write one part."""
        frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(rows, schema=SCHEMA, orient="row")
        files = self._files()
        number = int(files[-1].stem) + 1 if files else 0
        commit(
            self.folder / "parts" / f"{number:05d}.parquet",
            lambda path: write_parquet(path, frame.to_arrow(compat_level=pl.CompatLevel.oldest())),
            rows=frame.height,
            tokens=int(frame["completion_ids"].list.len().sum()),
            provenance=self._decides,
        )

    def remove(self, *, keep: pl.DataFrame) -> None:
        """Remove all parts, but `keep` these completions."""
        old = self._files()
        if keep.height:
            self.add(keep.select(list(SCHEMA)))
            for path in old:
                remove(path)
        else:
            remove_folder(self.folder / "parts", inside=self.folder)

    def _files(self) -> list[Path]:
        return sorted((self.folder / "parts").glob("[!.]*.parquet"))

    def _part(self, path: Path) -> list[pl.DataFrame]:
        if not sidecar_of(path).exists():  # killed before it was finished
            remove(path)
            return []
        if (damage := file_damage(path)) is not None:
            logger.warning(f"damaged samples {path}: {damage}; they are sampled again")
            remove(path)
            return []
        self._require_same(read_sidecar(path)[0]["provenance"])
        return [read_frame(path).cast(SCHEMA)]

    def _finished(self) -> list[pl.DataFrame]:
        path = self.folder / MANIFEST
        if not path.exists():
            return []
        try:
            manifest = manifests.read(SamplesManifest, path)
            manifests.require_files(manifest, self.folder)
        except InputError as error:
            logger.warning(f"{error.what} {error.found} ({error.where}); samples are made again")
            return []
        self._require_same(decides(manifest))
        whole = read_frame(self.folder / SAMPLES)
        logps = pl.col("sampler_logps") if manifest.realigned is not None else pl.lit(None, pl.Float64)
        return [whole.with_columns(logps=logps).select(list(SCHEMA)).cast(SCHEMA)]

    def _require_same(self, then: Mapping[str, Any]) -> None:
        if changed := manifests.differences("", then, self._decides):
            raise InputError(
                "There are samples of this label that were made otherwise.",
                found=manifests.listed(changed, "sampled"),
                where=str(self.folder),
                fix="Undo the change, or add --restart, which deletes them and samples again.",
            )


def decides(manifest: SamplesManifest) -> dict[str, Any]:
    """All that decides the samples of a manifest. More prompts, and more completions of each, change none of them."""
    return what_decides(
        store_key=manifest.store_key,
        reference_key=manifest.reference.store_key,
        realigned=manifest.realigned,
        generation=manifest.generation,
        ends=manifest.ends,
        seed=manifest.seed,
    )


def what_decides(
    *,
    store_key: str,
    reference_key: str,
    realigned: float | None,
    generation: Mapping[str, Any],
    ends: Sequence[int],
    seed: int,
) -> dict[str, Any]:
    """The same of samples that are to be made. Keys of stores stand for weights, adapter and dtype."""
    return {
        "model": store_key,
        "reference": None if realigned is None else reference_key,
        "realign": realigned,
        "generation": dict(generation),
        "ends": list(ends),
        "seed": seed if generation.get("do_sample") else None,
    }
