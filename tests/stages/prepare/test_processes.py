"""`prepare` in several processes: the same files, byte for byte, whatever their number."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import sha256
from scoreonce.stages.common.paths import SPLITS, RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.prepare import batches, pair_files
from scoreonce.stages.prepare import stage as prepare
from scoreonce.stages.raw import raw_data


class Workplace:
    """A folder with raw data and a tokenizer, one token per word."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        words = ["<unk>", "</s>", "yes", "no", "maybe", *(f"p{number}" for number in range(60))]
        backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
        tokenizer.save_pretrained(folder / "tokenizer")

    def write(self, rows: list[Any], name: str = "raw.jsonl") -> Path:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        (self.folder / name).write_bytes(b"\n".join(lines) + b"\n")
        return self.folder / name

    def prepare(self, out: str, source: Path, **data: Any) -> RunPaths:
        tree = {"reference": {"model": str(self.folder / "tokenizer")}, "data": {"source": str(source), **data}}
        run = Run.model_validate({"out": str(self.folder / out), **tree})
        prepare.prepare(run)
        return RunPaths.of(run)


@pytest.fixture
def workplace(tmp_path):
    return Workplace(tmp_path)


def row(number: int, **change: Any) -> dict[str, Any]:
    return {"prompt": f"p{number}", "chosen": " yes", "rejected": " no", **change}


def digests(paths: RunPaths) -> dict[str, str]:
    files = [paths.quarantine, *(path(split) for split in SPLITS for path in (paths.pairs, paths.tokens))]
    return {path.name: sha256(path) for path in files}


def rows(count: int) -> list[object]:
    """Every seventh row is unusable, every eleventh is no JSON; prompts repeat."""
    made: list[object] = []
    for number in range(count):
        made.append(row(number % 60, chosen=" yes maybe" if number % 2 else " yes"))
        if number % 7 == 0:
            made[-1] = row(number % 60, chosen=" ")
        if number % 11 == 0:
            made[-1] = b"not JSON"
    return made


@pytest.fixture
def small(monkeypatch):
    """Batches of 8 rows and pieces of 5, so that their bounds fall everywhere."""
    monkeypatch.setattr(pair_files, "ROWS_PER_PIECE", 5)
    local = raw_data._local
    monkeypatch.setattr(raw_data, "_local", lambda path, split, _: local(path, split, 8))


@pytest.mark.slow
@pytest.mark.parametrize(("given_test", "counts"), [(False, (1, 3)), (True, (1, 2))])
def test_the_same_files_by_any_number_of_processes(workplace, small, given_test, counts):
    """Held-out prompts split off, or given and then refused in the training data."""
    source = workplace.write(rows(100))
    data = {"test_share": 0.3}
    if given_test:
        data = {"test_source": str(workplace.write([row(n) for n in range(10)], "test.jsonl"))}
    found = [digests(workplace.prepare(f"out-{count}", source, processes=count, **data)) for count in counts]
    assert found[0] == found[1]
    # Another number of processes asks for the same pairs.
    manifest = workplace.folder / "out-1/pairs/manifest.json"
    before = manifest.stat().st_mtime_ns
    workplace.prepare("out-1", source, processes=2, **data)
    assert manifest.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_process_that_is_killed(workplace, small, monkeypatch):
    """Named, with nothing half-written; the same command afterwards is whole."""
    source = workplace.write(rows(200))
    honest = batches._elsewhere

    def killing(pool, *arguments):
        made = honest(pool, *arguments)
        yield next(made)
        for process in list(pool._processes.values()):
            os.kill(process.pid, signal.SIGKILL)
        yield from made

    monkeypatch.setattr(batches, "_elsewhere", killing)
    with pytest.raises(InputError, match="ended in the middle") as raised:
        workplace.prepare("out", source, processes=2)
    assert "data.processes = 2" in raised.value.where
    assert [
        path for path in Path(workplace.folder / "out/pairs").iterdir() if path.suffix in (".parquet", ".json")
    ] == []
    monkeypatch.setattr(batches, "_elsewhere", honest)
    assert digests(workplace.prepare("out", source, processes=2)) == digests(workplace.prepare("one", source))


def test_no_more_batches_are_read_than_the_processes_need():
    """Two batches ahead for each of two processes, whatever the length of the data; results in order."""

    class Pool:
        def submit(self, function, dataset, rows, first_row):
            future = batches.Future()
            future.set_result((rows, first_row))
            return future

    read = []

    def source():
        for number in range(20):
            read.append(number)
            yield [number] * 3

    made = batches._elsewhere(Pool(), source(), 0, 4)
    assert next(made) == ([0] * 3, 0)
    assert read == [0, 1, 2, 3]
    assert next(made) == ([1] * 3, 3)
    assert read == [0, 1, 2, 3, 4]
    assert [first for _, first in made] == list(range(6, 60, 3))


def test_an_error_from_another_process_keeps_its_four_parts():
    import pickle

    error = pickle.loads(pickle.dumps(InputError("what", found="this", where="there", fix="that")))
    assert (error.what, error.found, error.where, error.fix) == ("what", "this", "there", "that")
