"""The content-addressed store: scores of completions under one model, each computed once.

    <root>/<key>/identity.json            what the key stands for
    <root>/<key>/shards/<name>.parquet    rows of `CompletionScore`, one row group
    <root>/<key>/shards/<name>.json       sidecar, written last: SHA-256, rows, bytes, provenance
    <root>/<key>/damaged/                 shards that failed a check, set aside by `score`

The key is a digest of what changes the values. A shard without its sidecar does not exist. A completion may stand in
two shards (two writers, one killed): the values are the same, so either row will do.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import CompletionScore
from scoreonce.stages.common.files import read_json, read_parquet, sha256, write_json, write_parquet
from scoreonce.stages.common.locking import exclusive

FORMAT = 1
_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class StoreIdentity:
    """What changes the log-probs of a completion, besides its token ids."""

    weights: str
    dtype: str
    head: str = "float32"
    adapter: str | None = None

    @property
    def key(self) -> str:
        """Name of the store's folder, 32 hex digits."""
        canonical = json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(canonical.encode(), digest_size=16, person=b"store").hexdigest()


@dataclass(frozen=True)
class Damage:
    """A shard that cannot be trusted, and what was found."""

    shard: Path
    reason: str

    def error(self) -> InputError:
        """The same as an error, for stages that only read."""
        return InputError(
            "A shard of the reference store is damaged.",
            found=self.reason,
            where=str(self.shard),
            fix="Run `scoreonce score`: it sets the shard aside and scores its completions again.",
        )


class Store:
    """The scores of one model. Reading takes no lock: shards never change once they exist."""

    def __init__(self, root: Path, identity: StoreIdentity, model: str = "") -> None:
        self.identity, self.model = identity, model
        self.folder = root / identity.key
        self._sound: set[Path] = set()

    @classmethod
    def at(cls, folder: Path) -> Store:
        """The store in a folder, as its identity.json describes it. Raises `InputError` where that is damaged."""
        path = folder / "identity.json"
        try:
            stated = read_json(path)
            store = cls(folder.parent, StoreIdentity(**stated["identity"]), stated["model"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                "A reference store does not say what it holds.",
                found=repr(error),
                where=str(path),
                fix="Run `scoreonce score`, which writes the file again, or delete the folder.",
            ) from None
        if store.folder != folder:
            raise InputError(
                "A reference store stands under a name that is not its key.",
                found=folder.name,
                where=str(folder),
                fix=f"Rename the folder to {store.identity.key}.",
            )
        return store

    @property
    def shards_folder(self) -> Path:
        """Where the shards stand."""
        return self.folder / "shards"

    def shards(self) -> list[Path]:
        """The shards that exist: those with a sidecar, oldest first."""
        return sorted(sidecar.with_suffix(".parquet") for sidecar in self.shards_folder.glob("[!.]*.json"))

    def damage(self) -> list[Damage]:
        """Shards whose file is not what its sidecar says, all of them read and checked."""
        with ThreadPoolExecutor(_THREADS) as pool:
            checked = zip(self.shards(), pool.map(self._reason, self.shards()), strict=True)
            return [Damage(shard, reason) for shard, reason in checked if reason is not None]

    def ids(self, *, without: Sequence[Damage] = ()) -> pl.Series:
        """`completion_id` of everything stored, each once; what stands in `without` counts as not stored.

        Raises `InputError` at any other damaged shard.
        """
        damaged = {damage.shard for damage in without}
        return self._index([shard for shard in self.shards() if shard not in damaged]).get_column("completion_id")

    def read(self, ids: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
        """`completion_id` and `columns` of the wanted completions that are stored, in no particular order.

        Only shards that hold one of them are read; each is checked against its SHA-256 and its page checksums.
        Raises `InputError` at a damaged shard.
        """
        wanted = pl.DataFrame({"completion_id": ids.unique()})
        shards = self.shards()
        places = self._index(shards).join(wanted, on="completion_id", how="semi").sort("shard", "row")
        rows = places.partition_by("shard", maintain_order=True)
        names = ["completion_id", *columns]
        with ThreadPoolExecutor(_THREADS) as pool:
            parts = list(pool.map(lambda part: _frame(self.table(shards[part["shard"][0]], names))[part["row"]], rows))
        return pl.concat(parts) if parts else CompletionScore.create_empty().select(names)

    def table(self, shard: Path, columns: list[str] | None = None) -> pa.Table:
        """Rows of one shard. Raises `InputError` where it is damaged."""
        reason = self._reason(shard)
        if reason is not None:
            raise Damage(shard, reason).error()
        try:
            return read_parquet(shard, columns)
        except (OSError, pa.ArrowException) as error:  # changed since it was checked
            raise Damage(shard, str(error)).error() from None

    def append(self, table: pa.Table, provenance: dict[str, Any]) -> Path:
        """Write one shard of `CompletionScore` rows and commit it. Several processes may append at the same time.

        Raises `InputError` where the disk is full or cannot be written; then nothing of the shard remains.
        """
        now = datetime.now(UTC)
        shard = self.shards_folder / f"{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(5)}.parquet"
        with writable(self.folder):
            try:
                write_parquet(shard, table, rows_per_group=max(1, table.num_rows))
                write_json(
                    shard.with_suffix(".json"),
                    {
                        "format": FORMAT,
                        "sha256": sha256(shard),
                        "bytes": shard.stat().st_size,
                        "rows": table.num_rows,
                        "tokens": pc.sum(table.column("completion_len")).as_py() or 0,
                        "created": now.isoformat(timespec="seconds"),
                        "provenance": provenance,
                    },
                )
            except BaseException:
                self.remove(shard)
                raise
        return shard

    @contextmanager
    def writing(self, *, timeout: float | None = None) -> Iterator[None]:
        """Be the only writer, and remove what a killed one left. Waits, saying for whom, at most `timeout` seconds."""
        name = f"the reference store of {self.model or self.identity.key}"
        with ExitStack() as held:
            with writable(self.folder):
                self.shards_folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(exclusive(self.folder / "write.lock", name, timeout=timeout))
                self._state_identity()
                for path in self.leftovers():
                    path.unlink(missing_ok=True)
            yield

    def leftovers(self) -> list[Path]:
        """Files of shards that were never finished. Only a writer may remove them: they may belong to one."""
        files = [path for path in self.shards_folder.iterdir() if path.is_file()] if self.shards_folder.is_dir() else []
        finished = {shard.name for shard in self.shards()}
        return sorted(path for path in files if path.suffix != ".json" and path.name not in finished)

    def mend(self) -> list[Damage]:
        """Set damaged shards aside, so that their completions count as not scored. For a writer."""
        damages = self.damage()
        for damage in damages:
            with writable(self.folder):
                (self.folder / "damaged").mkdir(exist_ok=True)
                # The sidecar goes first: without it the shard no longer exists, whatever happens next.
                for path in (damage.shard.with_suffix(".json"), damage.shard):
                    if path.exists():
                        path.replace(self.folder / "damaged" / path.name)
        return damages

    def remove(self, shard: Path) -> None:
        """Remove a shard, or what there is of it. For a writer."""
        shard.with_suffix(".json").unlink(missing_ok=True)  # first: without it the shard no longer exists
        shard.unlink(missing_ok=True)

    def sidecar(self, shard: Path) -> dict[str, Any]:
        """What the sidecar of a shard says. Raises `InputError` where it is damaged."""
        reason = _sidecar_reason(shard)
        if reason is not None:
            raise Damage(shard, reason).error()
        stated: dict[str, Any] = read_json(shard.with_suffix(".json"))
        return stated

    def _state_identity(self) -> None:
        try:
            Store.at(self.folder)
        except InputError:
            write_json(
                self.folder / "identity.json",
                {
                    "format": FORMAT,
                    "identity": asdict(self.identity),
                    "model": self.model,
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                },
            )

    def _index(self, shards: list[Path]) -> pl.DataFrame:
        """Where each stored completion stands: completion_id, shard (number among `shards`), row; no id twice."""
        with ThreadPoolExecutor(_THREADS) as pool:
            frames = list(pool.map(lambda shard: _frame(self.table(shard, ["completion_id"])), shards))
        parts = [
            frame.select("completion_id", shard=pl.lit(number, pl.UInt32), row=pl.int_range(pl.len(), dtype=pl.UInt32))
            for number, frame in enumerate(frames)
        ]
        whole = (
            pl.concat(parts)
            if parts
            else pl.DataFrame(schema={"completion_id": pl.String, "shard": pl.UInt32, "row": pl.UInt32})
        )
        return whole.unique("completion_id", keep="first", maintain_order=True)

    def _reason(self, shard: Path) -> str | None:
        """What is wrong with a shard, or None. A shard found sound is not read again by this object."""
        if shard in self._sound:
            return None
        reason = _sidecar_reason(shard) or _file_reason(shard, read_json(shard.with_suffix(".json")))
        if reason is None:
            self._sound.add(shard)
        return reason


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _sidecar_reason(shard: Path) -> str | None:
    try:
        match read_json(shard.with_suffix(".json")):
            case {"format": 1, "sha256": str(), "bytes": int(), "rows": int(), "tokens": int(), "provenance": dict()}:
                return None
        return "the sidecar lacks what it should state"
    except (OSError, ValueError) as error:
        return f"the sidecar cannot be read ({error})"


def _file_reason(shard: Path, stated: dict[str, Any]) -> str | None:
    try:
        size = shard.stat().st_size
        if size != stated["bytes"]:
            return f"{size:,} bytes where {stated['bytes']:,} were written"
        if sha256(shard) != stated["sha256"]:
            return "the contents do not have the SHA-256 that was written"
        rows = pq.read_metadata(shard).num_rows
    except FileNotFoundError:
        return "the shard is gone, its sidecar is still there"
    except (OSError, pa.ArrowException) as error:
        return str(error)
    return None if rows == stated["rows"] else f"{rows:,} rows where {stated['rows']:,} were written"


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            "The reference store cannot be written; what was finished before stays.",
            found=str(error),
            where=str(folder),
            fix="Free space or permission there, or set score.store to another folder; then run the command "
            "again: it goes on where it stopped.",
        ) from None
