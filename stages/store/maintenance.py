"""`scoreonce store`: list what is cached, verify it, and remove what is not needed.

Without pairs to keep, `gc` removes leftovers only: files that were never finished, and files that failed a check and
were set aside. What was computed of a completion is removed only where the user names the pairs to keep, or the store
to drop.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from scoreonce.pipeline.pages.numbers import size
from scoreonce.schemas.columns import KL_ID
from scoreonce.schemas.errors import InputError, did_you_mean
from scoreonce.stages.common.files import read_json
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.removal import remove
from scoreonce.stages.store.index import Ids, Index, packed
from scoreonce.stages.store.layer import Layer
from scoreonce.stages.store.sidecar import read_sidecar
from scoreonce.stages.store.store import ReferenceStore

logger = logging.getLogger(__name__)

_LAYER = pl.Struct({"name": pl.String, "files": pl.Int64, "completions": pl.Int64, "bytes": pl.Int64})
_STORES: dict[str, pl.DataType | type[pl.DataType]] = {
    "key": pl.String,
    "model": pl.String,
    "dtype": pl.String,
    "completions": pl.Int64,  # with scores
    "tokens": pl.Int64,  # of these
    "bytes": pl.Int64,  # of all layers
    "created": pl.String,
    "damaged": pl.Int64,
    "layers": pl.List(_LAYER),
}


def list_stores(root: Path) -> pl.DataFrame:
    """Print and return one row per store: key, model, dtype, completions, tokens, bytes, created, damaged, layers.

    Only the sidecars are read; a store or file whose own cannot be read counts as damaged.
    """
    stores = pl.DataFrame([summary(folder) for folder in store_folders(root)], schema=_STORES)
    for row in stores.iter_rows(named=True):
        counts = f"{row['completions']:,} completions, {row['tokens']:,} tokens, {size(row['bytes'])}"
        warning = f"; {row['damaged']} damaged, see `scoreonce store verify`" if row["damaged"] else ""
        logger.info(f"{row['key']}  {row['model']} ({row['dtype']}): {counts}, since {row['created']}{warning}")
        width = max((len(layer["name"]) for layer in row["layers"]), default=0)
        for layer in row["layers"]:
            held = f"{layer['completions']:,} in {layer['files']:,} files, {size(layer['bytes'])}"
            logger.info(f"  {layer['name']:<{width}}  {held}")
    if stores.is_empty():
        logger.info(f"no reference store in {root}")
    return stores


def verify(root: Path) -> int:
    """Read every byte of every layer of every store, print what is damaged, and return how many files or stores are.

    Files without a sidecar are named too. They do not count: nothing reads them, and the next writer removes them.
    """
    damaged = 0
    for folder in store_folders(root):
        try:
            store = ReferenceStore.at(folder)
        except InputError as error:
            damaged += 1
            logger.info(f"{folder.name}  {error}")
            continue
        damaged += _verify(store)
    if damaged:
        logger.info("Run `scoreonce score`: it sets damaged files aside and scores their completions again.")
    return damaged


def gc(root: Path, *, keep: Sequence[Path] = (), drop: Sequence[str] = ()) -> int:
    """Remove leftovers and print and return the bytes freed.

    `keep` are pair files (Parquet with chosen_id and rejected_id, and kl_id where there are mismatched completions):
    completions of none of them are removed from every layer. `drop` are keys of stores to remove whole. Raises
    `InputError` for an unknown key, an unreadable pair file, a damaged file, and where a store is being written to.
    """
    folders = {folder.name: folder for folder in store_folders(root)}
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
        store = ReferenceStore.at(folder)
        with store.writing(timeout=0):  # which removes unfinished files
            remove(folder / "damaged", inside=root)
            if key in drop:
                remove(folder, inside=root)
            elif wanted is not None:
                for layer in store.layers():
                    _keep_only(layer, wanted)
    freed = before - _bytes(root)
    logger.info(f"freed {size(freed)} in {root}")
    return freed


def store_folders(root: Path) -> list[Path]:
    """Folders that are stores or were to become one. Raises `InputError` where `root` does not exist."""
    if not root.is_dir():
        raise InputError(
            "There is no reference store yet.",
            found=f"no folder {root}",
            where="score.store of the run file",
            fix="Run `scoreonce score` first.",
        )
    return sorted(folder for folder in root.iterdir() if (folder / "shards").is_dir())


def _verify(store: ReferenceStore) -> int:
    damages = store.damage()
    for layer in store.layers():
        layer.refresh()  # a damaged file that the index vouched for is one that `score` must look at
    counts = ", ".join(f"{len(layer.files()):,} {layer.name}" for layer in store.layers())
    logger.info(
        f"{store.folder.name}  {store.model}: {counts}, {f'{len(damages):,} damaged' if damages else 'all sound'}"
    )
    for damage in damages:
        logger.info(f"  {damage.path}: {damage.reason}")
    for layer in store.layers():
        for path in layer.without_sidecar():
            logger.info(
                f"  {path}: no sidecar, so it was never finished or has lost it; its completions count as not stored"
            )
    for head in store.heads_without_digest():
        logger.info(f"  {head.path}: no sidecar, so there is nothing to check it against; `scoreonce score` writes one")
    return len(damages)


def summary(folder: Path) -> dict[str, Any]:
    """One row of `list_stores`."""
    try:
        store, damaged = ReferenceStore.at(folder), 0
        created = read_json(folder / "identity.json")["created"]
        stated = {"model": store.model, "dtype": _numerics(store), "created": created}
    except (InputError, KeyError):
        store, damaged = ReferenceStore.unnamed(folder), 1
        stated = {"model": "?", "dtype": "?", "created": "?"}
    totals = {"completions": 0, "tokens": 0, "bytes": 0}
    layers = []
    for layer in store.layers():
        rows, tokens, bytes_, unreadable = _counted(layer)
        bytes_ += store.head(layer.name).bytes()
        damaged += unreadable
        totals["bytes"] += bytes_
        layers.append({"name": layer.name, "files": len(layer.files()), "completions": rows, "bytes": bytes_})
        if layer is store.scores:
            totals |= {"completions": rows, "tokens": tokens}
    return {"key": folder.name, **stated, **totals, "damaged": damaged, "layers": layers}


def _numerics(store: ReferenceStore) -> str:
    identity = store.identity
    return identity.dtype if identity.quantization is None else f"{identity.dtype}, {identity.quantization}"


def _counted(layer: Layer[Any]) -> tuple[int, int, int, int]:
    """Rows, tokens and bytes that the sidecars of a layer state, and how many of these cannot be read."""
    read = [read_sidecar(path) for path in layer.files()]
    sound = [stated for stated, reason in read if reason is None]
    rows, tokens, bytes_ = (sum(stated[name] for stated in sound) for name in ("rows", "tokens", "bytes"))
    return rows, tokens, bytes_, len(read) - len(sound)


def _referenced(pair_files: Sequence[Path]) -> Ids:
    """The completion ids of some pair files, sorted."""
    parts = []
    for path in pair_files:
        try:
            mismatched = [KL_ID.name] if KL_ID.name in pq.read_schema(path).names else []
            pairs = read_frame(path, ["chosen_id", "rejected_id", *mismatched])
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                "A pair file to keep cannot be read; nothing was removed.",
                found=str(error),
                where=str(path),
                fix="Give Parquet files that `scoreonce` wrote, such as <out>/pairs/train.parquet, or "
                "<out>/reference/train.parquet for its mismatched completions too.",
            ) from None
        parts += [column.alias("completion_id").drop_nulls() for column in pairs.iter_columns()]
    return packed(pl.concat(parts).unique().to_list())


def _keep_only(layer: Layer[Any], wanted: Ids) -> None:
    """Remove from a layer what was computed of other completions."""
    kept = Index.empty().merged([], wanted)
    for path in layer.files():
        rows = layer.read(path)
        layer.keep_only(path, rows, kept.holds(layer.codec.ids_of(rows)))


def _bytes(root: Path) -> int:
    """Bytes of everything but the indexes, which come and go."""
    total = 0
    for path in root.rglob("*"):
        with suppress(FileNotFoundError):  # of a process at work, finished since the folder was listed
            total += path.stat().st_size if path.is_file() and path.parent.name != "index" else 0
    return total
