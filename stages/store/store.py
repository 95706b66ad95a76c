"""The content-addressed store of one model: several layers of numbers about completions, each computed once.

    <root>/<key>/identity.json    what the key stands for
    <root>/<key>/shards/          scores: rows of `CompletionScore` (Parquet)
    <root>/<key>/hidden/          hidden states and the head; hidden-int8/ the same in 8 bits; topk-tail-128/ the
                                  largest log-probs and the mass of the rest; pooled/ sums of states
    <root>/<key>/parts/           locks of the parts that are being scored (see parts.py)
    <root>/<key>/index/           where each completion is in each layer: a cache, rebuilt when it is lost
    <root>/<key>/damaged/         files that failed a check, set aside by `score`

The key is a digest of what changes the values. Each file of a layer has a sidecar, written last (see sidecar.py). Where
the store is at an address, the folder is a copy of it, in which all of the above is done (see mirror.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import CompletionScore
from scoreonce.stages.common.files import read_json, write_json
from scoreonce.stages.common.frames import frame_of
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.removal import remove, require_inside
from scoreonce.stages.config import Reference, Run
from scoreonce.stages.store.codecs import (
    HIDDEN,
    HIDDEN_INT8,
    POOLED,
    SCORES,
    TOP_K,
    ScoreCodec,
    TensorBlock,
    TensorCodec,
    is_layer,
)
from scoreonce.stages.store.head import StoredHead
from scoreonce.stages.store.identity import FORMAT, StoreIdentity
from scoreonce.stages.store.index import Ids, Index, StaleIndexError, packed_column, unpacked
from scoreonce.stages.store.layer import THREADS, Layer
from scoreonce.stages.store.mirror import Mirror
from scoreonce.stages.store.parts import Part, alone, changing, mark_of, working
from scoreonce.stages.store.sidecar import Damage, move_aside, writable
from scoreonce.stages.weights.model_digests import adapter_digest, model_digest

logger = logging.getLogger(__name__)


class ReferenceStore:
    """What was computed under one model. Reading takes no lock: files never change once they exist."""

    def __init__(self, root: Path, identity: StoreIdentity, model: str = "", *, address: str | None = None) -> None:
        self.identity, self.model = identity, model
        self.folder = root / identity.key
        self.mirror = Mirror(self.folder, address) if address else None
        self._codec = ScoreCodec()
        self.scores: Layer[pa.Table] = Layer(self.folder / SCORES, self._codec, unit="shard", mirror=self.mirror)
        self._tensors: dict[str, Layer[TensorBlock]] = {}

    @classmethod
    def of(cls, run: Run, model: Reference | None = None) -> ReferenceStore:
        """The store of a run's reference, or of another model, whether anything is in it or not.

        Hashes the weights, once. Raises `InputError` where there is no such model.
        """
        from scoreonce.stages.models.folders import folder_of

        meant = model or run.reference
        adapter = None if meant.adapter is None else adapter_digest(folder_of(meant.adapter))
        weights = model_digest(folder_of(meant.model, meant.revision))
        identity = StoreIdentity(weights, meant.dtype, adapter=adapter, quantization=meant.quantization)
        paths = RunPaths.of(run)
        return cls(paths.store, identity, meant.model, address=paths.store_address)

    @classmethod
    def of_key(cls, paths: RunPaths, key: str) -> ReferenceStore:
        """The store of a run with that key, as the manifest of its scores names it.

        Raises `InputError` where there is none, or its address cannot be reached.
        """
        folder, address = paths.store / key, paths.store_address
        if address is not None and not (folder / "identity.json").exists():
            Mirror(folder, address).pull([])  # which fetches it
        return cls.at(folder, address=address)

    @classmethod
    def at(cls, folder: Path, *, address: str | None = None) -> ReferenceStore:
        """The store in a folder, as its identity.json describes it. Raises `InputError` where that is damaged."""
        path = folder / "identity.json"
        try:
            stated = read_json(path)
            store = cls(folder.parent, StoreIdentity(**stated["identity"]), stated["model"], address=address)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                "A reference store does not say what it holds.",
                found=repr(error),
                where=str(path),
                fix="Run `scoreonce score`, which writes the file again, or delete the folder.",
            ) from None
        if store.folder != folder:
            raise InputError(
                "The folder of a reference store is not named after its key.",
                found=folder.name,
                where=str(folder),
                fix=f"Rename the folder to {store.identity.key}.",
            )
        return store

    @classmethod
    def unnamed(cls, folder: Path) -> ReferenceStore:
        """The store in a folder that does not say what it holds: to look at its files, not to use them."""
        store = cls(folder.parent, StoreIdentity("?", "?"), "?")
        store.folder = folder
        store.scores = Layer(folder / SCORES, store._codec, unit="shard")
        return store

    @property
    def shards_folder(self) -> Path:
        """Folder of the shards of scores."""
        return self.scores.folder

    def tensors(self, name: str) -> Layer[TensorBlock]:
        """A layer of tensors: hidden, hidden-int8, pooled or topk-tail-<k>, whether anything is in it or not."""
        if name not in self._tensors:
            self._tensors[name] = Layer(
                self.folder / name, TensorCodec(), unit="block", setting=setting_of(name), mirror=self.mirror
            )
        return self._tensors[name]

    def head(self, name: str) -> StoredHead:
        """The head that belongs to a layer of tensors."""
        return StoredHead(self.folder / name, setting_of(name), self.mirror)

    @property
    def place(self) -> str:
        """Where the store is, in messages."""
        return self.mirror.address if self.mirror else str(self.folder)

    def pull(self, layers: Sequence[str] = ()) -> None:
        """Fetch what is new in scores and `layers`, where the store is at an address.

        Raises `InputError` where that cannot be reached.
        """
        if self.mirror is not None:
            self.mirror.pull([SCORES, *layers])

    def publish_rest(self, part: Part | None = None) -> None:
        """Write to the store's address, if it has one, what an earlier command could not. For a writer.

        With `part`, not what others have written, who may be publishing it.
        """
        if self.mirror is not None:
            self.mirror.publish_rest(lambda path: part is None or mark_of(path) in (part.mark, None))

    def layers(self) -> list[Layer[Any]]:
        """Every layer that has a folder, scores first."""
        present = [path.name for path in sorted(self.folder.iterdir())] if self.folder.is_dir() else []
        named = [name for name in present if name != SCORES and is_layer(name)]
        return [self.scores, *(self.tensors(name) for name in named)]

    def shards(self) -> list[Path]:
        """The shards of scores that exist, oldest first."""
        return self.scores.files()

    def sidecar(self, shard: Path) -> dict[str, Any]:
        """What the sidecar of a shard states. Raises `InputError` where it is damaged."""
        return self.scores.sidecar(shard)

    def append(self, table: pa.Table, provenance: dict[str, Any], *, mark: str = "") -> Path:
        """Write one shard of `CompletionScore` rows and commit it. Several processes may append at the same time.

        `mark` is that of the part which the rows are of, if any. Raises `InputError` where the disk is full or cannot
        be written; then nothing of the shard remains.
        """
        return self.scores.append(table, provenance, mark=mark)

    def ids(self) -> pl.Series:
        """`completion_id` of everything that has scores, each once. Raises `InputError` at a damaged shard."""
        return pl.Series("completion_id", unpacked(np.unique(self.scores.index().ids)), pl.String)

    def holds(self, ids: pl.Series, layers: Sequence[str] = ()) -> npt.NDArray[np.bool_]:
        """`(ids,)` whether each completion has scores, and rows in all of `layers` too.

        Completions of damaged files count as not stored.
        """
        wanted = packed_column(ids)
        held = [layer.sound_index().holds(wanted) for layer in (self.scores, *map(self.tensors, layers))]
        return np.logical_and.reduce(held)

    def read(self, ids: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
        """`completion_id` and `columns` of the wanted completions that have scores, in no particular order.

        Only shards that hold one of them are read; each is checked against its SHA-256 and its page checksums. An index
        that does not fit the shards is made again. Raises `InputError` at a damaged shard.
        """
        wanted = ids.drop_nulls().unique()
        try:
            return self._located(self.scores.index(), wanted, columns)
        except StaleIndexError:
            return self._located(self.scores.rebuilt_index(), wanted, columns)

    def _located(self, index: Index, wanted: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
        names = ["completion_id", *columns]
        found, files, rows = index.locate(packed_column(wanted))
        places = pl.DataFrame({"id": wanted.filter(pl.Series(found)), "file": files[found], "row": rows[found]})

        def part(places: pl.DataFrame) -> pl.DataFrame:
            shard = self.scores.path_of(index.files[places["file"][0]])
            rows = frame_of(self.table(shard, names))[places["row"]]
            if not rows["completion_id"].equals(places["id"]):
                raise StaleIndexError
            return rows

        with ThreadPoolExecutor(THREADS) as pool:
            parts = list(pool.map(part, places.partition_by("file")))
        return pl.concat(parts) if parts else CompletionScore.create_empty().select(names)

    def prefix_sums(self, ids: Ids, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """`(ids,)` the sum of the first so many token log-probs of each completion, in nats; NaN where not scored.

        Of the token log-probs, those of a few shards at a time are in memory. Raises `InputError` at a damaged shard.
        """
        try:
            return self._prefix_sums(self.scores.index(), ids, lengths)
        except StaleIndexError:
            return self._prefix_sums(self.scores.rebuilt_index(), ids, lengths)

    def _prefix_sums(self, index: Index, ids: Ids, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        found, files, rows = index.locate(ids)
        sums = np.full(len(ids), np.nan)
        stored = np.flatnonzero(found)
        stored = stored[np.argsort(files[stored], kind="stable")]

        def read(some: npt.NDArray[np.int64]) -> None:
            shard = self.scores.path_of(index.files[files[some[0]]])
            scores = frame_of(self.table(shard, ["completion_id", "token_logps"]))[rows[some]]
            if not np.array_equal(packed_column(scores["completion_id"]), ids[some]):
                raise StaleIndexError
            prefix = pl.col("token_logps").cast(pl.List(pl.Float64)).list.head("length").list.sum()
            sums[some] = scores.with_columns(length=pl.Series(lengths[some])).select(prefix).to_series().to_numpy()

        of_files = np.split(stored, np.flatnonzero(np.diff(files[stored])) + 1) if len(stored) else []
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(read, of_files))
        return sums

    def table(self, shard: Path, columns: list[str] | None = None) -> pa.Table:
        """Rows of one shard. Raises `InputError` where it is damaged."""
        self.scores.require_sound(shard)
        try:
            return self._codec.read(shard, columns)
        except self._codec.unreadable as error:  # changed since it was checked
            raise Damage(shard, str(error)).error() from None

    def damage(self) -> list[Damage]:
        """Files of every layer that are not what their sidecar says, all of them read and checked."""
        return [damage for layer in self.layers() for damage in [*layer.damage(), *self.head(layer.name).damage()]]

    def new_damage(self) -> list[Damage]:
        """The same among files that have changed since the index was made, and the heads: quick where nothing has."""
        return [damage for layer in self.layers() for damage in [*layer.refresh(), *self.head(layer.name).damage()]]

    def heads_without_digest(self) -> list[StoredHead]:
        """Heads that version 0.1 wrote, without a sidecar."""
        return [head for layer in self.layers() if (head := self.head(layer.name)).lacks_digest()]

    @contextmanager
    def writing(self, *, timeout: float | None = None) -> Iterator[None]:
        """Be the only writer, and remove what killed ones left. Waits, saying for whom, at most `timeout` seconds."""
        with ExitStack() as held:
            with writable(self.folder):
                self._make_folder()
                held.enter_context(alone(self.folder, self._name, timeout=timeout))
                self._put_in_order(self.leftovers)
            self._record_digests()
            yield

    @contextmanager
    def scoring_part(self, part: Part, *, timeout: float | None = None) -> Iterator[None]:
        """Be the only process that scores a part, beside those that score others, and remove what a killed one left.

        Files may be appended in this block. All else that changes the store needs `changing` too.
        """
        with ExitStack() as held:
            with writable(self.folder):
                self._make_folder()
                held.enter_context(working(self.folder, part, self._name, timeout=timeout))
                # No other process writes files of this mark.
                self._remove(lambda: [path for path in self.leftovers() if mark_of(path) == part.mark])
            yield

    @contextmanager
    def changing(self, *, timeout: float | None = None) -> Iterator[None]:
        """Change, for a moment, what parts share: damaged files, heads, the index. No one else writes all of the store.

        Files of parts may appear meanwhile. Removes what was never finished and is no part's.
        """
        with ExitStack() as held:
            with writable(self.folder):
                self._make_folder()
                held.enter_context(changing(self.folder, self._name, timeout=timeout))
                self._put_in_order(lambda: [path for path in self.leftovers() if mark_of(path) is None])
            self._record_digests()
            yield

    def forget_indexes(self) -> None:
        """Read the indexes from disk again when they are next needed.

        Their tables are memory-mapped, and another process may replace them. On a network file system one that another
        machine removed can no longer be read.
        """
        for layer in self.layers():
            layer.forget_index()

    @property
    def _name(self) -> str:
        return f"the reference store of {self.model or self.identity.key}"

    def _make_folder(self) -> None:
        require_inside(self.folder, self.folder.parent)
        self.shards_folder.mkdir(parents=True, exist_ok=True)

    def _put_in_order(self, leftovers: Callable[[], list[Path]]) -> None:
        self._write_identity()
        self._remove(leftovers)

    def _remove(self, leftovers: Callable[[], list[Path]]) -> None:
        # What another process is placing in a copy looks unfinished for a moment.
        with self.mirror.still() if self.mirror else nullcontext():
            for path in leftovers():
                remove(path, inside=self.folder.parent)

    def _record_digests(self) -> None:
        for head in self.heads_without_digest():
            head.record_digest()

    def tidy(self) -> None:
        """Remove what a killed process left, unless there is a writer: it may be the writer's, and a writer tidies."""
        if self.leftovers():
            with suppress(InputError, OSError), self.writing(timeout=0):
                pass

    def leftovers(self) -> list[Path]:
        """Files of the store and its layers that were never finished; a writer may be at work on them."""
        own = sorted(self.folder.glob(".*.tmp"))
        return [*own, *(path for layer in self.layers() for path in layer.leftovers())]

    def set_aside_damaged(self) -> list[Damage]:
        """Move damaged files aside, so that their completions count as not stored. For a writer."""
        damages = self.new_damage()
        with writable(self.folder):
            for damage in damages:
                name = damage.path.parent.name
                # Shards and blocks have names of their own; heads have not.
                prefix = f"{name}-" if damage.path == self.head(name).path else ""
                move_aside(damage.path, self.folder / "damaged", prefix=prefix)
        for layer in self.layers():
            layer.refresh()
        return damages

    def is_nameless(self) -> bool:
        """Whether there are shards and no sound identity.json, which the next writer writes again."""
        return self.shards_folder.is_dir() and not self._is_named()

    def _is_named(self) -> bool:
        try:
            ReferenceStore.at(self.folder)
        except InputError:
            return False
        return True

    def _write_identity(self) -> None:
        if not self._is_named():
            if (self.folder / "identity.json").exists():
                logger.warning("%s was damaged and is written again", self.folder / "identity.json")
            write_json(
                self.folder / "identity.json",
                {
                    "format": FORMAT,
                    "identity": self.identity.document(),
                    "model": self.model,
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                },
            )


def setting_of(layer: str) -> str:
    """The setting of the run file that fills a layer of tensors."""
    if layer.startswith(TOP_K):
        return f'score.full_vocab = "topk" and score.topk = {layer.removeprefix(TOP_K)}'
    hidden = 'score.full_vocab = "hidden"'
    settings = {HIDDEN: hidden, HIDDEN_INT8: f'{hidden} and score.hidden = "int8"', POOLED: "score.embeddings = true"}
    return settings.get(layer, "")
