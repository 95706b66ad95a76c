"""How fast an audit is and what it misses: generated pairs with planted flaws of known number, and sequence columns.

    python benchmarks/audit.py [--pairs 1000000] [--scored 10000000] [--folder DIR] [--smoke]

Writes benchmarks/results/audit.json and audit.md. Each part runs in a process of its own, for its peak memory; wall
clock and CPU seconds are both given, because only the latter mean much where something else runs beside. The folder
keeps the generated pairs (about 2 KB each), so that a second run need not make them again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import planted
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import real_data

from scoreonce.pipeline.audit.checks.check import judged
from scoreonce.pipeline.audit.checks.distributions import histograms
from scoreonce.pipeline.audit.checks.layer import joined
from scoreonce.pipeline.audit.summary.findings import findings, worst
from scoreonce.pipeline.audit.summary.sources import by_source, measured
from scoreonce.schemas.manifests import ReferenceManifest
from scoreonce.stages.audit import stage as audit
from scoreonce.stages.audit.layers import reference_layer
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import read_json, sha256
from scoreonce.stages.common.paths import SPLITS, RunPaths
from scoreonce.stages.config import Run

EACH = 200  # of every kind of flaw
SOURCES = 20
AT_ONCE = 1_000_000


def usage(started: tuple[float, float]) -> dict[str, float]:
    """Seconds since `started` and the peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"wall, s": time.perf_counter() - started[0], "CPU, s": time.process_time() - started[1], "peak, GiB": peak}


def run_of(folder: Path, *, near: bool) -> Run:
    return Run.model_validate(
        {
            "out": str(folder / "out"),
            "data": {"source": "generated", "tokenizer": str(folder / "tokenizer")},
            "reference": {"model": "none"},
            "audit": {"near_duplicates": near, "contamination": [str(folder / "out" / "evaluation.jsonl")]},
        }
    )


def make(folder: Path, pairs: int, each: int) -> None:
    """Generate the pairs, unless they are there."""
    record = folder / f"expected-{pairs}.json"
    if record.is_file():
        return
    planted.write_tokenizer(folder / "tokenizer")
    run = run_of(folder, near=True)
    world = planted.write(
        RunPaths.of(run), pairs, each=each, source=run.data.source, tokenizer=str(folder / "tokenizer")
    )
    record.write_text(json.dumps({name: sorted(rows) for name, rows in world.expected.items()}))


def before_scoring(folder: Path, pairs: int, *, near: bool) -> dict[str, Any]:
    """Audit the generated pairs from nothing; what it took, and what it missed."""
    run = run_of(folder, near=near)
    RunPaths.of(run).measures_manifest.unlink(missing_ok=True)
    started = time.perf_counter(), time.process_time()
    audit.audit(run)
    took = usage(started)
    expected = json.loads((folder / f"expected-{pairs}.json").read_text())
    table = pl.scan_parquet(RunPaths.of(run).audit_pairs)
    planted_rows, found_rows, hits = 0, 0, 0
    for finding in read_json(RunPaths.of(run).audit_summary)["findings"]:
        wanted = {tuple(row) for row in expected.get(finding["name"], [])}
        found = set(table.filter(finding["column"]).select("split", "row").collect().iter_rows())
        planted_rows, found_rows, hits = planted_rows + len(wanted), found_rows + len(found), hits + len(wanted & found)
    return {**took, "planted rows": planted_rows, "recall": hits / planted_rows, "precision": hits / found_rows}


def write_scored(paths: RunPaths, rows: int) -> None:
    """Random pairs and, in files of their own as `score` writes them, their reference columns; a tenth is held out."""
    random = np.random.default_rng(0)
    writers: dict[Path, pq.ParquetWriter] = {}

    def write(path: Path, table: pa.Table) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path not in writers:
            writers[path] = pq.ParquetWriter(path, table.schema, compression="zstd", compression_level=1)
        writers[path].write_table(table, row_group_size=131_072)

    for split, start, end in (("train", 0, rows - rows // 10), ("test", rows - rows // 10, rows)):
        for first in range(start, end, AT_ONCE):
            pairs, scores = random_columns(random, min(AT_ONCE, end - first), first, split)
            write(paths.audit / "measures.parquet", pairs)
            write(paths.reference(split), scores)
    for writer in writers.values():
        writer.close()
    files = {paths.reference(split).name: sha256(paths.reference(split)) for split in SPLITS}
    manifest = ReferenceManifest(
        model="none",
        weights="none",
        adapter=None,
        dtype="float32",
        head="float32",
        layout="none",
        store_key="none",
        mismatched=False,
        embeddings=False,
        pairs_manifest_sha256="0" * 64,
        pairs={"train": rows - rows // 10, "test": rows // 10},
        files=files,
    )
    manifests.write(paths.reference_manifest, manifest)


def random_columns(random: np.random.Generator, count: int, first: int, split: str) -> tuple[pa.Table, pa.Table]:
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * 32).buffers()[1]
    hexes = pa.StringArray.from_buffers(count, offsets, pa.py_buffer(random.bytes(16 * count).hex().encode()))
    names = pa.array([f"source {number}" for number in range(SOURCES)])
    lengths = random.integers(10, 400, (2, count), dtype=np.int32)
    nll = random.gamma(8, 0.3, (2, count))
    pairs = pa.table(
        {
            "pair_id": hexes,
            "row": np.arange(first, first + count),
            "split": pa.array([split] * count),
            "source": names.take(pa.array(random.integers(0, SOURCES, count))),
            "chosen_len": lengths[0],
            "rejected_len": lengths[1],
            "chosen_score": random.integers(1, 10, count).astype(float),
            "rejected_score": random.integers(0, 9, count).astype(float),
        }
    )
    return pairs, pa.table(
        {
            "pair_id": hexes,
            "ref_chosen_logps": -nll[0] * lengths[0],
            "ref_rejected_logps": -nll[1] * lengths[1],
            "ref_margin": nll[1] * lengths[1] - nll[0] * lengths[0],
            "ref_chosen_entropy": nll[0] * lengths[0],
            "ref_rejected_entropy": nll[1] * lengths[1],
            "ref_chosen_top1_hits": lengths[0] // 3,
            "ref_rejected_top1_hits": lengths[1] // 3,
        }
    )


def after_scoring(folder: Path, rows: int) -> dict[str, Any]:
    """What an audit does with sequence columns: pairs joined with the reference's columns by pair_id, checks written as
    columns, findings, histograms, tables by source and length.
    """
    paths = RunPaths(folder / f"scored-{rows}", folder / "store", "none")
    if not paths.reference_manifest.is_file():
        write_scored(paths, rows)
    started = time.perf_counter(), time.process_time()
    pairs = pl.scan_parquet(paths.audit / "measures.parquet")
    layer = reference_layer(paths, pairs)
    assert layer is not None
    judged(joined(pairs, [layer]), layer.checks).sink_parquet(
        paths.audit_pairs, compression="zstd", compression_level=1
    )
    table = pl.scan_parquet(paths.audit_pairs)
    found = findings(table, layer.checks)
    histograms(table, layer.distributions)
    measured(table, layer.measures)
    by_source(table, layer.measures)
    worst(table, found)
    took = usage(started)
    scored = table.select(pl.col("ref_margin").is_not_null().sum()).collect(engine="streaming").item()
    return {**took, "rows joined": scored, "rows found": sum(finding["rows"] for finding in found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--scored", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--smoke", action="store_true", help="a tiny size, for whether it runs; nothing is written")
    parser.add_argument("--each", type=int, default=EACH, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=["make", "plain", "near", "scored"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is None:
        with tempfile.TemporaryDirectory() as temporary:
            size = (1_000, 10_000, 2) if options.smoke else (options.pairs, options.scored, EACH)
            figures = measure(options.folder or Path(temporary), *size)
        real_data.write("audit", figures, page(figures, size[2]), keep=not options.smoke)
        return
    folder = options.folder
    match options.part:
        case "make":
            make(folder, options.pairs, options.each)
            figures: dict[str, Any] = {}
        case "scored":
            figures = after_scoring(folder, options.scored)
        case part:
            figures = before_scoring(folder, options.pairs, near=part == "near")
    (folder / "figures.json").write_text(json.dumps(figures))


def measure(folder: Path, pairs: int, scored: int, each: int) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    for part, title in {
        "make": "",
        "plain": f"before scoring, {pairs:,} pairs, without near-duplicates",
        "near": f"before scoring, {pairs:,} pairs, with near-duplicates",
        "scored": f"after scoring, {scored:,} pairs joined with the reference's columns",
    }.items():
        arguments = [
            "--part",
            part,
            "--folder",
            str(folder),
            "--pairs",
            str(pairs),
            "--scored",
            str(scored),
            "--each",
            str(each),
        ]
        subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.DEVNULL)
        if title:
            figures[title] = json.loads((folder / "figures.json").read_text())
    return figures


def page(figures: dict[str, dict[str, float]], each: int) -> str:
    columns = list(dict.fromkeys(name for row in figures.values() for name in row))
    lines = [
        f"| {title} | " + " | ".join(f"{row[name]:.4g}" if name in row else "–" for name in columns) + " |"
        for title, row in figures.items()
    ]
    return (
        f"# Audit of generated pairs\n\nPairs have about 300 tokens; {each} of them have each of "
        f"{len(planted.KINDS) - 3} flaws; contamination is looked for as well.\n\n"
        f"| what | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
