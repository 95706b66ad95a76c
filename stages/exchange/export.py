"""The scored pairs in the format of another trainer.

    scoreonce export-reference configs/x.toml --to trl        needs prepare and score

Writes <out>/export/<to>/: the pairs of each split, and manifest.json, last. Does nothing where they are there already.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import ExportManifest, PairsManifest, ReferenceManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import atomic, parquet_in_pieces, sha256
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import MANIFEST, SPLITS, RunPaths, Split
from scoreonce.stages.common.removal import remove
from scoreonce.stages.config import Run
from scoreonce.stages.data.prepared_pairs import require_pairs
from scoreonce.stages.data.reference_scores import require_reference, require_scores_of_pairs, require_store
from scoreonce.stages.data.token_file import TokenFile
from scoreonce.stages.exchange.fairseq2_format import Fairseq2Text
from scoreonce.stages.exchange.json_format import json_rows
from scoreonce.stages.exchange.lines import json_lines
from scoreonce.stages.exchange.scored_pairs import Batch, batches, both_sides
from scoreonce.stages.exchange.targets import Target, target_of
from scoreonce.stages.exchange.trl_format import readme, trl_table
from scoreonce.stages.outputs.at_address import at_address
from scoreonce.stages.store.store import ReferenceStore

logger = logging.getLogger(__name__)

UNPAIRED = "has one completion"  # reasons why a row is left out
DIFFERS = "has other tokens than were scored"
Write = Callable[[Batch], None]
ROWS_PER_GROUP = 4096


@dataclass
class Rows:
    """How many rows of a split were written, and how many were not, by reason."""

    written: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    first_differing: str = ""  # which pair, and what of it

    def paired(self, batch: Batch) -> Batch:
        """The pairs of a batch, without the rows that have one completion."""
        pairs = batch.kept(both_sides())
        self.left_out[UNPAIRED] += batch.pairs.height - pairs.pairs.height
        return pairs

    def alike(self, batch: Batch, text: Fairseq2Text) -> Batch:
        """The pairs whose text has the tokens that were scored."""
        found = text.differences(batch)
        differing = [place for place, part in enumerate(found) if part is not None]
        if differing and not self.first_differing:
            pair, part = batch.pairs.row(differing[0], named=True), found[differing[0]]
            cut = ", which was cut to fit the limits of length" if pair[f"{part}_truncated"] else ""
            self.first_differing = f"pair {pair['pair_id']} of row {pair['row']}, its {part}{cut}"
        self.left_out[DIFFERS] += len(differing)
        return batch.kept(pl.Series([part is None for part in found], dtype=pl.Boolean))

    def counted(self, batch: Batch) -> Batch:
        """The same batch, which is written."""
        self.written += batch.pairs.height
        return batch


def written_unit(run: Run, to: str, **_: object) -> str:
    """What an export writes, as a unit of `stages.outputs`."""
    return f"export/{target_of(to)}"


@at_address("pairs/*", "reference/*", writes=written_unit)
def export_reference(
    run: Run, to: str, *, tokens: bool = False, leave_out_differing: bool = False, lock_timeout: float | None = None
) -> Path:
    """Write the scored pairs for the trainer `to`, and return their folder.

    `tokens` adds token ids and the log-prob of each token to `jsonl`. A pair that fairseq2 would tokenise to other ids
    than were scored is refused, or left out with `leave_out_differing`, and counted. Another process that exports to
    the same folder is waited for, at most `lock_timeout` seconds. Raises `InputError` where the trainer is not known,
    pairs or scores are missing or do not belong together, or no pair is left.
    """
    target = target_of(to)
    _require_options(target, tokens=tokens, leave_out_differing=leave_out_differing)
    prepared, reference = require_pairs(run), require_reference(run)
    require_scores_of_pairs(reference, RunPaths.of(run))
    if tokens:
        require_store(reference, "--tokens", "Leave out --tokens.")
    export = _Export(run, target, tokens, leave_out_differing)
    folder, wanted = export.folder, export.settings(prepared, reference)
    with locked(export.paths, folder, f"the folder {folder}", timeout=lock_timeout):
        changed = manifests.changes(ExportManifest, folder / MANIFEST, wanted)
        if not changed:
            logger.info("%s: up to date", folder)
            return folder
        if (folder / MANIFEST).exists():
            logger.info(manifests.again("Exporting", changed, "exported"))
        remove(folder, inside=export.paths.out)
        manifest = export.write(wanted)
    logger.info("\n".join(_summary(manifest, folder)))
    return folder


def _require_options(target: Target, **given: bool) -> None:
    for name, of in {"tokens": "jsonl", "leave_out_differing": "fairseq2"}.items():
        if given[name] and target != of:
            option = f"--{name.replace('_', '-')}"
            raise InputError(
                f"{option} is for {of} alone.",
                found=f"--to {target}",
                where=option,
                fix=f"Leave it out, or use --to {of}.",
            )


@dataclass(frozen=True)
class _Export:
    """What is exported, and for whom."""

    run: Run
    target: Target
    tokens: bool
    leave_out_differing: bool

    @property
    def paths(self) -> RunPaths:
        return RunPaths.of(self.run)

    @property
    def folder(self) -> Path:
        return self.paths.export(self.target)

    def settings(self, prepared: PairsManifest, reference: ReferenceManifest) -> dict[str, Any]:
        """What the export depends on, as fields of its manifest."""
        return {
            "to": self.target,
            "tokens": self.tokens,
            "leave_out_differing": self.leave_out_differing,
            **reference.model_dump(include={"model", "weights", "adapter", "dtype", "store_key"}),
            "max_length": prepared.config["max_length"],
            "pairs_manifest_sha256": sha256(self.paths.pairs_manifest),
            "reference_manifest_sha256": sha256(self.paths.reference_manifest),
        }

    def write(self, settings: dict[str, Any]) -> ExportManifest:
        """Write the files of every split that has pairs, and the manifest last."""
        written = {split: self._write(split, settings["store_key"]) for split in SPLITS if self._pairs(split)}
        files = {self._name(split): sha256(self.folder / self._name(split)) for split in written}
        left_out = sum((rows.left_out for rows in written.values()), Counter())
        counts = {split: rows.written for split, rows in written.items()}
        manifest = ExportManifest(**settings, pairs=counts, left_out=dict(left_out), files=files)
        if self.target == "trl":
            with atomic(self.folder / "README.md") as temporary:
                temporary.write_text(readme(self.folder, manifest), encoding="utf-8")
        manifests.write(self.folder / MANIFEST, manifest)
        return manifest

    def _pairs(self, split: Split) -> int:
        return len(TokenFile(self.paths.tokens(split)))

    def _name(self, split: Split) -> str:
        names = {"trl": f"{split}.parquet", "fairseq2": f"{split}/pairs.jsonl", "jsonl": f"{split}.jsonl"}
        return names[self.target]

    def _write(self, split: Split, store_key: str) -> Rows:
        rows = Rows()
        with self._writer(split, rows, store_key) as write:
            for batch in batches(self.paths, split):
                write(batch)
            self._require(rows, split)  # nothing is named before that
        return rows

    @contextmanager
    def _writer(self, split: Split, rows: Rows, store_key: str) -> Iterator[Write]:
        """What writes a batch in the target's format, and counts it into `rows`."""
        path = self.folder / self._name(split)
        if self.target == "trl":
            with parquet_in_pieces(path, rows_per_group=ROWS_PER_GROUP) as append:
                yield lambda batch: append(trl_table(rows.counted(rows.paired(batch))))
            return
        with json_lines(path) as add:
            if self.target == "jsonl":
                store = ReferenceStore.of_key(self.paths, store_key) if self.tokens else None
                yield lambda batch: add(json_rows(rows.counted(batch), store))
            else:
                text = self._fairseq2_text(split)
                yield lambda batch: add(text.rows(rows.counted(rows.alike(rows.paired(batch), text))))

    def _fairseq2_text(self, split: Split) -> Fairseq2Text:
        from scoreonce.stages.models.tokenizers import load_tokenizer

        data, reference = self.run.data, self.run.reference
        tokenizer = load_tokenizer(
            data.tokenizer or reference.model, revision=None if data.tokenizer else reference.revision
        )
        return Fairseq2Text.of(tokenizer, TokenFile(self.paths.tokens(split)).row(0, "prompt_ids").tolist())

    def _require(self, rows: Rows, split: Split) -> None:
        differing = rows.left_out[DIFFERS]
        if differing and not self.leave_out_differing:
            raise InputError(
                f"{self.target} would give pairs other tokens than were scored.",
                found=f"{differing:,} of {differing + rows.written:,} pairs of {split}, the first: "
                f"{rows.first_differing}",
                where=str(self.paths.pairs(split)),
                fix="Their reference scores would be of other tokens. Leave these pairs out with "
                "--leave-out-differing, or prepare them so that no text is cut (data.max_length) and all end in EOS.",
            )
        if not rows.written:
            reasons = "; ".join(
                f"{number:,} rows, of which each {reason}" for reason, number in (+rows.left_out).items()
            )
            raise InputError(
                f"No pair of {split} can be exported for {self.target}.",
                found=reasons,
                where=str(self.paths.pairs(split)),
                fix="Use data with both a chosen and a rejected completion, or --to jsonl.",
            )


def _summary(manifest: ExportManifest, folder: Path) -> Iterator[str]:
    yield f"exported   {', '.join(f'{pairs:,} of {split}' for split, pairs in manifest.pairs.items())}"
    for reason, number in manifest.left_out.items():
        yield f"left out   {number:,}: each {reason}"
    yield f"written to {folder}"
