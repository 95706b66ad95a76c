"""`prepare` in several processes, or by a Ray cluster: the same files, byte for byte, whatever their number."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from local_ray import cluster, needs_ray
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from scoreonce.schemas.errors import InputError
from scoreonce.stages.cluster import connection
from scoreonce.stages.cluster.node import Surroundings
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

    def run(self, out: str, source: Path, **data: Any) -> Run:
        tree = {"reference": {"model": str(self.folder / "tokenizer")}, "data": {"source": str(source), **data}}
        return Run.model_validate({"out": str(self.folder / out), **tree})

    def prepare(self, out: str, source: Path, **data: Any) -> RunPaths:
        run = self.run(out, source, **data)
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
@pytest.mark.parametrize(
    ("given_test", "counts"), [pytest.param(False, (1, 3), marks=pytest.mark.long), (True, (1, 2))]
)
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


def test_without_the_package_the_extra_is_named(workplace, monkeypatch):
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"(?s)Preparing with Ray.*ray is not installed.*data.engine"):
        workplace.prepare("out", workplace.write(rows(8)), engine="ray")


def test_a_node_with_another_tokenizer_prepares_nothing(workplace, monkeypatch):
    monkeypatch.setattr(batches, "cpu_share", lambda: 1)
    monkeypatch.setattr(batches, "_recipes", [])
    run = workplace.run("out", workplace.write(rows(8)), engine="ray")
    first = [batches.FirstRows("raw.jsonl", [row(1)], False)]
    with pytest.raises(InputError, match=r"(?s)another tokenizer.*not another digest.*tokenizer on "):
        batches._begin_task(run, first, Surroundings.here([]), "another digest")
    digest = batches._recipes[0].encoder.digest
    batches._begin_task(run, first, Surroundings.here([]), digest)
    assert batches._prepared(0, [row(1)], 5).pairs["row"].to_pylist() == [5]


@pytest.mark.long
@needs_ray
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # Ray's own
@pytest.mark.parametrize("given_test", [False, True])
def test_the_same_files_by_the_tasks_of_a_cluster(workplace, small, given_test):
    """One of its processes dies in the middle, and another takes its batch."""
    killed = str(workplace.folder / "killed")

    def setup() -> None:
        """In each process that Ray starts: the batch from row 40 ends the first that has it."""
        import os

        from scoreonce.stages.prepare import batches

        honest = batches.prepared

        def prepared(found, first_row, recipe):
            if first_row == 40 and not os.access(killed, os.F_OK):
                os.close(os.open(killed, os.O_CREAT))
                os._exit(1)
            return honest(found, first_row, recipe)

        batches.prepared = prepared

    source, data = workplace.write(rows(100)), {"test_share": 0.3}
    if given_test:
        data = {"test_source": str(workplace.write([row(n) for n in range(10)], "test.jsonl"))}
    with cluster(2, setup):
        made = workplace.prepare("cluster", source, engine="ray", **data)
    assert Path(killed).exists()
    assert digests(made) == digests(workplace.prepare("one", source, **data))
    # The engine does not decide the pairs.
    before = made.pairs_manifest.stat().st_mtime_ns
    workplace.prepare("cluster", source, **data)
    assert made.pairs_manifest.stat().st_mtime_ns == before
