"""`scoreonce store`: what is cached, whether it is sound, and removing what nobody needs.

Without anything to keep named, `gc` removes leftovers only: files of shards that were never finished, and shards that
failed a check and were set aside. A scored completion is removed only where the user names the pairs to keep, or the
store to drop.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from scoreonce.pipeline.pages.numbers import size
from scoreonce.schemas.columns import KL_ID
from scoreonce.schemas.errors import InputError, did_you_mean
from scoreonce.stages.common.files import read_json, read_parquet
from scoreonce.stages.store.store import Store


def list_stores(root: Path) -> pl.DataFrame:
    """Print and return one row per store: key, model, dtype, completions, tokens, bytes, created.

    Only the sidecars are read; a store or shard that cannot be read counts as damaged.
    """
    stores = pl.DataFrame(
        [_summary(folder) for folder in _folders(root)],
        schema={
            "key": pl.String,
            "model": pl.String,
            "dtype": pl.String,
            "completions": pl.Int64,
            "tokens": pl.Int64,
            "bytes": pl.Int64,
            "created": pl.String,
            "damaged": pl.Int64,
        },
    )
    for row in stores.iter_rows(named=True):
        counts = f"{row['completions']:,} completions, {row['tokens']:,} tokens, {size(row['bytes'])}"
        warning = f"; {row['damaged']} damaged, see `scoreonce store verify`" if row["damaged"] else ""
        print(f"{row['key']}  {row['model']} ({row['dtype']}): {counts}, since {row['created']}{warning}")
    if stores.is_empty():
        print(f"no reference store in {root}")
    return stores


def verify(root: Path) -> int:
    """Read every shard of every store, print what is damaged, and return how many shards or stores are."""
    damaged = 0
    for folder in _folders(root):
        try:
            store = Store.at(folder)
        except InputError as error:
            damaged += 1
            print(f"{folder.name}  {error}")
            continue
        damages = store.damage()
        damaged += len(damages)
        print(
            f"{folder.name}  {store.model}: {len(store.shards()):,} shards, "
            + (f"{len(damages):,} damaged" if damages else "all sound")
        )
        for damage in damages:
            print(f"  {damage.shard}: {damage.reason}")
    if damaged:
        print("Run `scoreonce score`: it sets damaged shards aside and scores their completions again.")
    return damaged


def gc(root: Path, *, keep: Sequence[Path] = (), drop: Sequence[str] = ()) -> int:
    """Remove leftovers and print and return the bytes freed.

    `keep` are pair files (Parquet with chosen_id and rejected_id, and kl_id where there are mismatched completions):
    completions of none of them are removed. `drop` are keys of stores to remove whole. Raises `InputError` for an
    unknown key, an unreadable pair file, a damaged shard, and where a store is being written to.
    """
    folders = {folder.name: folder for folder in _folders(root)}
    unknown = [key for key in drop if key not in folders]
    if unknown:
        raise InputError(
            "There is no such reference store.",
            found=f"{unknown[0]}.{did_you_mean(unknown[0], list(folders))}",
            where=str(root),
            fix="Take a key from `scoreonce store list`.",
        )
    before, wanted = _bytes(root), _referenced(keep) if keep else None
    for key, folder in folders.items():
        store = Store.at(folder)
        with store.writing(timeout=0):  # which removes unfinished shards
            shutil.rmtree(folder / "damaged", ignore_errors=True)
            if key in drop:
                shutil.rmtree(folder)
            elif wanted is not None:
                _keep_only(store, wanted)
    freed = before - _bytes(root)
    print(f"freed {size(freed)} in {root}")
    return freed


def _folders(root: Path) -> list[Path]:
    """Folders that are stores or were to become one."""
    if not root.is_dir():
        raise InputError(
            "There is no reference store yet.",
            found=f"no folder {root}",
            where="score.store of the run file",
            fix="Run `scoreonce score` first.",
        )
    return sorted(folder for folder in root.iterdir() if (folder / "shards").is_dir())


def _summary(folder: Path) -> dict[str, Any]:
    totals, damaged = {"completions": 0, "tokens": 0, "bytes": 0}, 0
    for path in (folder / "shards").glob("[!.]*.json"):
        try:
            stated = read_json(path)
            totals = {
                "completions": totals["completions"] + stated["rows"],
                "tokens": totals["tokens"] + stated["tokens"],
                "bytes": totals["bytes"] + stated["bytes"],
            }
        except (OSError, ValueError, KeyError, TypeError):
            damaged += 1
    try:
        store, created = Store.at(folder), read_json(folder / "identity.json")["created"]
    except (InputError, KeyError):
        return {"key": folder.name, "model": "?", "dtype": "?", **totals, "created": "?", "damaged": damaged + 1}
    return {
        "key": folder.name,
        "model": store.model,
        "dtype": store.identity.dtype,
        **totals,
        "created": created,
        "damaged": damaged,
    }


def _referenced(pair_files: Sequence[Path]) -> pl.DataFrame:
    parts = []
    for path in pair_files:
        try:
            mismatched = [KL_ID.name] if KL_ID.name in pq.read_schema(path).names else []
            pairs = pl.from_arrow(read_parquet(path, ["chosen_id", "rejected_id", *mismatched]))
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                "A pair file to keep cannot be read; nothing was removed.",
                found=str(error),
                where=str(path),
                fix="Give Parquet files that `scoreonce` wrote, such as <out>/pairs/train.parquet, or "
                "<out>/reference/train.parquet for its mismatched completions too.",
            ) from None
        assert isinstance(pairs, pl.DataFrame)
        parts += [column.alias("completion_id").drop_nulls() for column in pairs.iter_columns()]
    return pl.DataFrame({"completion_id": pl.concat(parts).unique()})


def _keep_only(store: Store, wanted: pl.DataFrame) -> None:
    for shard in store.shards():
        table = store.table(shard)
        ids = pl.DataFrame({"completion_id": pl.from_arrow(table.column("completion_id"))}).with_row_index("place")
        kept = ids.join(wanted, on="completion_id", how="semi", maintain_order="left").get_column("place")
        if kept.len() == table.num_rows:
            continue
        if kept.len():
            store.append(table.take(kept.to_arrow()), store.sidecar(shard)["provenance"])
        store.remove(shard)


def _bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
