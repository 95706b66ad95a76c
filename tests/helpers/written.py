"""What stages leave behind, written by hand: manifests that vouch for the files beside them."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from scoreonce.schemas.manifests import (
    EvaluatedReference,
    EvaluationManifest,
    Lineage,
    MethodRecord,
    PairCounts,
    PairsManifest,
    PolicyStart,
    ReferenceManifest,
    TokenizerRecord,
    TrainedPairs,
)
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256
from scoreonce.stages.common.paths import SPLITS, RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.data.prepared_pairs import data_settings

NO_DIGEST = "0" * 64


def pairs_manifest(run: Run) -> PairsManifest:
    """The manifest of the pairs that stand in the folder of `run`, made with its settings."""
    paths = RunPaths.of(run)
    rows = {split: pq.ParquetFile(paths.pairs(split)).metadata.num_rows for split in SPLITS}
    written = [path for split in SPLITS for path in (paths.pairs(split), paths.tokens(split))]
    return PairsManifest(
        config=data_settings(run.data),
        inputs={},
        tokenizer=TokenizerRecord(name=run.data.tokenizer or run.reference.model, vocab_size=97, digest=NO_DIGEST),
        counts=PairCounts(raw=sum(rows.values()), quarantined=0, by_reason={}, **rows),
        truncated={},
        boundary_merged=0,
        lengths={},
        files={path.name: sha256(path) for path in written},
    )


def write_reference_manifest(paths: RunPaths, **changes: Any) -> ReferenceManifest:
    """Write the manifest of the reference scores that stand in a folder."""
    written = [paths.reference(split) for split in SPLITS]
    fields = {
        "model": "m",
        "weights": "w",
        "adapter": None,
        "dtype": "float32",
        "head": "float32",
        "layout": "packed",
        "store_key": "k",
        "mismatched": False,
        "embeddings": False,
        "pairs_manifest_sha256": sha256(paths.pairs_manifest),
        "pairs": {split: pq.ParquetFile(paths.reference(split)).metadata.num_rows for split in SPLITS},
        "files": {path.name: sha256(path) for path in written},
    }
    manifest = ReferenceManifest(**fields | changes)
    manifests.write(paths.reference_manifest, manifest)
    return manifest


def lineage(label: str, **changes: Any) -> Lineage:
    """The lineage of a DPO run."""
    method = {"name": "dpo", "title": "DPO", "paper": None, "hyperparameters": {"beta": 0.1}}
    fields = {
        "label": label,
        "identity": "1" * 64,
        "method": MethodRecord(**method, objective="dpo", calibration=["constant_beta"], selection="all"),
        "train": {"seed": 3, "dtype": "float32"},
        "policy": PolicyStart(model="m", weights="w", adapter=None),
        "reference": None,
        "data": TrainedPairs(
            source="hh.jsonl",
            pairs=4,
            pair_ids=NO_DIGEST,
            files={"train.parquet": "2" * 64},
            counts=PairCounts(raw=5, train=4, test=1, quarantined=0, by_reason={}),
            config={"source": "hh.jsonl", "max_length": 192},
        ),
        "versions": {"scoreonce": "0.2"},
    }
    return Lineage(**fields | changes)


def write_evaluation(folder: Path, label: str, figures: dict[str, Any], **changes: Any) -> EvaluationManifest:
    """Write the summary of the pairs.parquet in a folder."""
    fields = {
        "label": label,
        "model": "m",
        "revision": None,
        "adapter": None,
        "dtype": "float32",
        "weights": "w",
        "store_key": "p",
        "method": "dpo",
        "training_identity": "1" * 64,
        "reference": EvaluatedReference(model="m", weights="w", store_key="k", dtype="float32"),
        "pairs_manifest_sha256": NO_DIGEST,
        "figures": figures,
        "files": {"pairs.parquet": sha256(folder / "pairs.parquet")},
    }
    summary = EvaluationManifest(**fields | changes)
    manifests.write(folder / "summary.json", summary)
    return summary
