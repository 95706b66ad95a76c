"""The store's index at scale: seconds to open it, to find a million completions, and to take in a new shard.

    python benchmarks/store_index.py [--completions 1000000 10000000 100000000] [--smoke]

Shards and sidecars are generated, of 2,048 completions each, the shards without contents: only their names, sizes and
dates are looked at when a store is opened, because the index remembers that they were checked. Their ids are random.
Each part runs in a process of its own, for its peak memory. Writes benchmarks/results/store_index.json and
store_index.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import child
import numpy as np
import polars as pl
import pyarrow as pa
import real_data

from scoreonce.stages.store.identity import StoreIdentity
from scoreonce.stages.store.index import Index, IndexedFile, IndexFile, unpacked
from scoreonce.stages.store.sidecar import sidecar_of, stamp_of
from scoreonce.stages.store.store import ReferenceStore

SIZES = [1_000_000, 10_000_000, 100_000_000]
SHARD, WANTED, TOKENS = 2_048, 1_000_000, 70
AT_ONCE = 1 << 23  # ids made together
MIB, GIB = 2**20, 2**30


def store_in(folder: Path) -> ReferenceStore:
    return ReferenceStore(folder / "store", StoreIdentity("w" * 64, "float32"), "generated")


def random_ids(seed: int, count: int) -> Any:
    return np.frombuffer(np.random.default_rng(seed).bytes(16 * count), "S16")


def generate(store: ReferenceStore, completions: int) -> None:
    """Empty shards with sidecars, and the index over them."""
    folder = store.shards_folder
    folder.mkdir(parents=True)
    stated = {"format": 1, "sha256": "", "bytes": 0, "rows": SHARD, "tokens": SHARD * TOKENS, "provenance": {}}
    text, files = json.dumps(stated), []
    for number in range(completions // SHARD):
        shard = folder / f"20260101T{number:012d}-0.parquet"
        shard.touch()
        sidecar_of(shard).write_text(text)
        stamp = stamp_of(shard)
        assert stamp is not None
        files.append(IndexedFile(shard.name, SHARD, stamp))
    on_disk = IndexFile(store.folder / "index" / "shards.json")
    ids, rows = on_disk.allocate(len(files) * SHARD)
    fill(ids, rows)
    on_disk.save(Index(tuple(files), ids, rows))


def fill(ids: Any, rows: Any) -> None:
    """Sorted random ids, chunk by chunk of their range, and the rows in any order."""
    random, parts = np.random.default_rng(0), range(0, len(ids), AT_ONCE)
    for number, start in enumerate(parts):
        halves = np.empty((min(AT_ONCE, len(ids) - start), 2), ">u8")
        width = 2**64 // len(parts)
        halves[:, 0] = np.sort(random.integers(0, width, len(halves), np.uint64)) + np.uint64(number * width)
        halves[:, 1] = random.integers(0, 2**64, len(halves), np.uint64)
        ids[start : start + len(halves)] = halves.reshape(-1).view("S16")
    rows[:] = random.permutation(len(rows))


def shard_of(ids: list[str]) -> pa.Table:
    logps = np.random.default_rng(0).normal(-2, 1, len(ids) * TOKENS).astype(np.float32)
    ends = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * TOKENS)
    ones = np.ones(len(ids))
    columns = {"logps": ones, "completion_len": (TOKENS * ones).astype(np.int32), "entropy": ones}
    return pa.table(
        {
            "completion_id": pa.array(ids, pa.string()),
            "token_logps": pa.ListArray.from_arrays(ends, pa.array(logps)),
            **columns,
            "collision_logps": ones,
            "top1_hits": ones.astype(np.int32),
        }
    )


def measured(order: dict[str, Any]) -> dict[str, Any]:
    """What one process takes: opening, the anti-join of half stored and half unknown ids, and one more shard."""
    folder, completions = Path(order["at"]), order["completions"]
    half = order["wanted"] // 2
    store = store_in(folder)
    (body,) = (store.folder / "index").glob("*.bin")
    known = np.memmap(body, "S16", "r", shape=(completions // SHARD * SHARD,))
    picked = np.random.default_rng(1).integers(0, len(known), half)
    wanted = pl.Series(unpacked(known[picked]) + unpacked(random_ids(999, half)))
    del known
    started = time.perf_counter()
    store.scores.index()
    opened = time.perf_counter()
    held = store.holds(wanted)
    joined = time.perf_counter()
    assert held.tolist() == [True] * half + [False] * half
    figures = {"open, s": opened - started, "anti-join, s": joined - opened, "anonymous, bytes": anonymous()}
    if order["append"]:
        shard = store.append(shard_of(unpacked(random_ids(1_000, SHARD))), {})
        started = time.perf_counter()
        store.scores.index()
        figures["one more shard, s"] = time.perf_counter() - started
        store.scores.sidecar(shard)
    return figures


def anonymous() -> int:
    """Bytes of this process that no file holds: what it cannot give back under pressure."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def built(order: dict[str, Any]) -> dict[str, Any]:
    """The index of real shards made from nothing: every byte of every shard is hashed, and its ids are read."""
    started = time.perf_counter()
    store_in(Path(order["at"])).scores.index()
    return {"seconds": time.perf_counter() - started}


def parts(order: dict[str, Any]) -> dict[str, Any]:
    return {"measured": measured, "built": built}[order["part"]](order)


def row(completions: int, wanted: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = store_in(folder)
        started = time.perf_counter()
        generate(store, completions)
        print(f"{completions:,} completions generated in {time.perf_counter() - started:,.0f} s", flush=True)
        order = {"at": name, "completions": completions, "wanted": wanted, "part": "measured"}
        runs = [child.ask("store_index", folder, **order, append=False) for _ in range(3)]
        best = min(runs, key=lambda run: run["open, s"] + run["anti-join, s"])
        more = child.ask("store_index", folder, **order, append=True)["one more shard, s"]
        disk = sum(path.stat().st_size for path in (store.folder / "index").iterdir())
        return {"completions": completions, **best, "one more shard, s": more, "index, bytes": disk}


def from_shards(completions: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        store = store_in(Path(name))
        for number in range(completions // SHARD):
            store.append(shard_of(unpacked(random_ids(number, SHARD))), {})
        disk = sum(path.stat().st_size for path in store.shards())
        answer = child.ask("store_index", Path(name), at=name, part="built")
        return {"completions": completions // SHARD * SHARD, "shards, bytes": disk, **answer}


def table(rows: list[dict[str, Any]], made: dict[str, Any]) -> str:
    lines = [
        "# The index of the reference store",
        "",
        "| completions | shards | index on disk | open | anti-join of 10⁶ ids | one more shard | peak memory "
        "| of it not file-backed |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {each['completions']:,} | {each['completions'] // SHARD:,} | {each['index, bytes'] / MIB:,.0f} MiB "
        f"| {each['open, s']:.2f} s | {each['anti-join, s']:.2f} s | {each['one more shard, s']:.2f} s "
        f"| {each['peak, bytes'] / GIB:.2f} GiB | {each['anonymous, bytes'] / GIB:.2f} GiB |"
        for each in rows
    ]
    lines += [
        "",
        "Open: list the shards, compare size and date of each and of its sidecar with the index, check the index "
        "against its SHA-256, and map it. Anti-join: half of the ids stored, half unknown, given as text. One more "
        "shard: append 2,048 completions and write the merged index. The best of three processes, with a warm page "
        "cache. Peak memory counts the pages of the mapped index, which the system takes back where it needs them; "
        "the rest is Python, polars, and the million ids.",
        "",
        f"Made from nothing, hashing each of {made['completions'] // SHARD:,} real shards "
        f"({made['shards, bytes'] / MIB:,.0f} MiB, {made['completions']:,} completions): {made['seconds']:.1f} s.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--completions", type=int, nargs="+", default=SIZES)
    parser.add_argument("--smoke", action="store_true", help="tiny, and nothing is written")
    given = parser.parse_args()
    sizes, wanted, real = ([20_000], 1_000, 10_000) if given.smoke else (given.completions, WANTED, SIZES[0])
    made = from_shards(real)
    rows = [row(completions, wanted) for completions in sizes]
    figures = {"shard, completions": SHARD, "wanted": wanted, "sizes": rows, "from shards": made}
    real_data.write("store_index", figures, table(rows, made), keep=not given.smoke)


if __name__ == "__main__":
    if child.asked():
        child.answer(parts)
    else:
        main()
