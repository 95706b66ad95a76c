"""Reading raw preference data: a Hub dataset, or JSONL, JSON, CSV, Parquet and Arrow files and folders of shards.

Files at an address (s3://bucket/pairs.jsonl) are fetched into the cache first, and read as local ones from there.
Local files are read in batches by json, csv and pyarrow, not through the datasets cache, which has returned stale rows
for a file that changed under the same name. A row that cannot be read is replaced by a `RowError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

import pyarrow as pa

from scoreonce.schemas.addresses import is_address
from scoreonce.schemas.errors import InputError, did_you_mean, first_line
from scoreonce.schemas.manifests import HubInput, LocalInput
from scoreonce.stages.common.digests import file_digests
from scoreonce.stages.raw.compression import SUFFIXES, is_compressed, uncompressed_name
from scoreonce.stages.raw.raw_files import (
    KINDS,
    Names,
    RawRow,
    batches_of,
    kind_of_file,
    python_rows,
    readable,
    rows_of,
)

NOT_DATA = {"", ".md", ".yaml", ".yml", ".py", ".lock"}
HELD_OUT = "test"
SPLIT_NAME = re.compile(r"((?:train|test|validation|valid|val|dev|eval)(?:_[A-Za-z]+)?)(?=$|[-_.])")
DATASETS_STATE = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


@dataclass(frozen=True)
class RawData:
    """A dataset to read. `rows` is 0 if unknown; `batches(columns)` reads from the start each time.

    `inputs` identifies the data: per file its size, modification time and SHA-256, or per Hub dataset its revision.
    """

    name: str
    inputs: Mapping[str, LocalInput | HubInput]
    rows: int
    batches: Callable[[Names], Iterator[list[RawRow]]]
    untyped: bool = False  # CSV: all values are text


def open_data(
    source: str, *, subset: str | None, split: str | None, streaming: bool = False, batch_rows: int = 2048
) -> RawData:
    """The dataset `source`: a local file or folder, one at an address, otherwise a Hub dataset.

    With `streaming`, a Hub dataset is read without a copy of it.

    `split` None means held-out data: the split "test" if there are splits. Raises `InputError` if there is no such
    dataset or split.
    """
    if is_address(source):
        return _remote(source, split, batch_rows)
    path = Path(source).expanduser()
    if path.is_file() or path.is_dir():
        return _local(path, split, batch_rows)
    if path.exists():
        raise InputError(
            "The dataset is neither a file nor a folder.",
            found=f"{path} is a pipe, a socket or a device, and data are read more than once",
            where="data.source",
            fix="Write the data to a file, and give that.",
        )
    if path.suffix in {*KINDS, *SUFFIXES, ".txt"} or source.startswith((".", "/", "~")) or source.count("/") > 1:
        nearby = sorted(str(p) for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise InputError(
            "No such dataset.",
            found=f"no file or folder {source}.{did_you_mean(str(path), nearby)}",
            where="data.source",
            fix="Give a .jsonl, .json, .csv, .tsv, .parquet or .arrow file, a folder of them, or a Hub name such as "
            "org/name.",
        )
    return (_streamed if streaming else _hub)(source, subset, split or HELD_OUT, batch_rows)


def local_inputs(source: str, split: str | None) -> dict[str, LocalInput] | None:
    """The files of a local dataset as they are now; None where the source is elsewhere or no longer there."""
    path = Path(source).expanduser()
    try:
        if is_address(source) or not path.exists():
            return None
        return _identities({str(file): file for file in _local_files(path, split)})
    except InputError:  # a folder that was emptied
        return None


def is_one_file(source: str) -> bool:
    """Whether a source is a single file, which has no splits."""
    if is_address(source):
        return kind_of_file(Path(source)) is not None
    return Path(source).is_file()


def limited(batches: Iterator[list[RawRow]], limit: int | None) -> Iterator[list[RawRow]]:
    """The first `limit` rows of the batches; all of them if it is None."""
    left = limit
    for batch in batches:
        yield batch if left is None else batch[:left]
        if left is not None:
            left -= len(batch)
            if left <= 0:
                return


def columns_of(rows: Sequence[RawRow]) -> list[str]:
    """The columns of the rows, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))


def _local(path: Path, split: str | None, batch_rows: int) -> RawData:
    return _of_files(str(path), {str(file): file for file in _local_files(path, split)}, batch_rows)


def _remote(address: str, split: str | None, batch_rows: int) -> RawData:
    from scoreonce.stages.remote.data import fetched  # fsspec, not needed for local data

    files = fetched(address, lambda names: _of_one_kind(_of_split(names, split, address), address))
    _of_one_kind(list(files.values()), address)  # a single file too
    return _of_files(address, files, batch_rows)


def _of_files(name: str, named: Mapping[str, Path], batch_rows: int) -> RawData:
    """The dataset in some files, by the names under which it is remembered that they were read."""
    files = list(named.values())
    return RawData(
        name,
        _identities(named),
        sum(rows_of(file) for file in files),
        lambda columns: (batch for file in files for batch in batches_of(file, columns, batch_rows)),
        untyped=kind_of_file(files[0]) == "CSV",
    )


def _local_files(path: Path, split: str | None) -> list[Path]:
    if path.is_dir():
        names = [file.relative_to(path) for file in path.rglob("*") if file.is_file()]
        return _of_one_kind([path / name for name in _of_split(names, split, str(path))], str(path))
    return _of_one_kind([path], str(path))


File = TypeVar("File", bound=PurePath)


def _of_one_kind(files: list[File], where: str) -> list[File]:
    unknown = [file for file in files if kind_of_file(file) is None]
    if unknown:
        raise InputError(
            "The dataset mixes file types, or has one that cannot be read.",
            found=f"{unknown[0].name}{', and others' if len(unknown) > 1 else ''}",
            where=where,
            fix=f"{_advice(unknown[0])} Read are {', '.join(KINDS)}; of these, JSON, CSV and TSV also as "
            f"{', '.join(SUFFIXES)}.",
        )
    if len({kind_of_file(file) for file in files}) != 1:
        raise InputError(
            "The dataset mixes file types, or has one that cannot be read.",
            found=", ".join(file.name for file in files[:8]),
            where=where,
            fix="Keep files of one kind only: JSON, CSV, Parquet or Arrow.",
        )
    return files


def _advice(file: PurePath) -> str:
    if is_compressed(file) and uncompressed_name(file).suffix in KINDS:
        return "Decompress it: Parquet and Arrow files are compressed inside."
    if uncompressed_name(file).suffix == ".txt":
        return "A .txt file does not say how it is laid out: rename it to .tsv, .csv or .jsonl, whichever it is."
    return "Convert it, or rename it where only the name is wrong."


def _identities(files: Mapping[str, Path]) -> dict[str, LocalInput]:
    found: dict[str, LocalInput] = {}
    for name, file in files.items():
        with readable(file):
            status, (digest,) = file.stat(), file_digests([file])
            found[name] = LocalInput(size=status.st_size, mtime_ns=status.st_mtime_ns, sha256=digest)
    return found


def _of_split(names: Sequence[File], split: str | None, folder: str) -> list[File]:
    """The data files of a folder: those of the split if file or folder names contain split names, otherwise all."""
    files = sorted(name for name in names if _is_data(name))
    if not files:
        raise InputError(
            "The folder has no data files.",
            found=f"{len(names):,} files, none of them data",
            where=folder,
            fix=f"Give a folder of {', '.join(KINDS)} files.",
        )
    named = {file: _split_named(file) for file in files}
    of_split = [file for file in files if named[file] == (split or HELD_OUT)]
    if of_split or (split in (None, "train") and not any(named.values())):
        return of_split or files
    found = sorted({name for name in named.values() if name}) or [file.name for file in files[:8]]
    raise InputError(
        f"The folder has no split {split or HELD_OUT!r}.",
        found=", ".join(found),
        where=folder,
        fix="Name one of these under data.split / data.test_split, or rename the files to <split>-*.",
    )


def _is_data(relative: PurePath) -> bool:
    hidden = any(part.startswith((".", "_")) for part in relative.parts)
    return not hidden and relative.name not in DATASETS_STATE and relative.suffix not in NOT_DATA


def _split_named(relative: PurePath) -> str | None:
    """The split in a file's or folder's name: train-00000-of-00002.parquet, test/data.arrow."""
    matches = (SPLIT_NAME.match(part) for part in (relative.name, *relative.parts[:-1]))
    return next((match[1] for match in matches if match), None)


def _hub(name: str, subset: str | None, split: str, batch_rows: int) -> RawData:
    revision = _hub_revision(name)
    dataset = _loaded(name, subset, split, revision, streaming=False).with_format("arrow")

    def batches(columns: Names) -> Iterator[list[RawRow]]:
        kept = dataset if columns is None else dataset.select_columns([n for n in dataset.column_names if n in columns])
        for table in kept.iter(batch_rows):
            yield python_rows(table)

    # Offline the revision is unknown, and the rows' fingerprint takes its place.
    identity = HubInput(rows=len(dataset), revision=revision, fingerprint=None if revision else dataset._fingerprint)
    return RawData(name, {_key(name, subset, split): identity}, len(dataset), batches)


def _streamed(name: str, subset: str | None, split: str, batch_rows: int) -> RawData:
    """Rows as they come, in the order of the dataset's files; how many there are is not known."""
    revision = _hub_revision(name)
    if revision is None:
        raise InputError(
            "The revision of the dataset is not known, so a later run could not tell whether its rows have changed.",
            found="the Hub does not answer, or knows no such dataset",
            where=f"data.source = {name!r}, data.streaming = true",
            fix="Correct the name, go on line, log in with `hf auth login` if it is gated, or set data.streaming to "
            "false to use a copy of it that is on this disk.",
        )
    dataset = _loaded(name, subset, split, revision, streaming=True).with_format("arrow")

    def batches(columns: Names) -> Iterator[list[RawRow]]:
        known = dataset.column_names  # None where only the rows would tell
        chosen = [column for column in known or [] if column in (columns or known)]
        kept = dataset.select_columns(chosen) if chosen else dataset
        with _network(name):
            for table in kept.iter(batch_rows):
                yield python_rows(table)

    return RawData(name, {_key(name, subset, split): HubInput(revision=revision)}, 0, batches)


def _loaded(name: str, subset: str | None, split: str, revision: str | None, *, streaming: bool) -> Any:
    """What `datasets` makes of a name on the Hub. Raises `InputError` where it cannot."""
    import datasets

    try:
        return datasets.load_dataset(name, subset, split=split, revision=revision, streaming=streaming)
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        raise InputError(
            "The dataset cannot be loaded.",
            found=first_line(error),
            where=f"data.source = {name!r}, subset {subset!r}, split {split!r}",
            fix="Correct the name, the subset or the split, log in with `hf auth login` if it is gated, "
            "or give a local file.",
        ) from None


@contextmanager
def _network(name: str) -> Iterator[None]:
    """Turn errors of reading a streamed dataset into an `InputError`."""
    import datasets

    try:
        yield
    # Of the network, of a damaged file, and of rows whose columns are not those of the first file.
    except (datasets.exceptions.DatasetsError, pa.ArrowException, OSError, ValueError, EOFError) as error:
        raise InputError(
            "The dataset cannot be read to its end.",
            found=first_line(error),
            where=f"data.source = {name!r}, data.streaming = true",
            fix="Run the command again if it was the network; data.streaming = false makes a copy first, which goes on "
            "where it stopped.",
        ) from None


def _key(name: str, subset: str | None, split: str) -> str:
    return ":".join(part for part in (name, subset, split) if part)


def _hub_revision(name: str) -> str | None:
    """The current commit on the Hub, so that a cached older one is not used for it; None if offline."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name, timeout=10).sha
    except Exception:  # the client's network errors have no common base class; `load_dataset` reports the cause
        return None
