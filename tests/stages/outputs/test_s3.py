"""A whole run at an address, by the command line against an S3 server on this machine, with its faults."""

import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from remote_run import PUBLISHED, STAGES, Place

from scoreonce.stages.outputs import lease
from scoreonce.stages.remote.folder import RemoteFolder

pytest.importorskip("s3fs", reason="needs s3fs: pip install -e '.[dev]'")
pytest.importorskip("moto", reason="needs moto: pip install -e '.[dev]'")
from s3_server import emptied, s3_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running():
    with s3_server() as server:
        yield server


@pytest.fixture
def server(running, monkeypatch):
    return emptied(running, monkeypatch)


@pytest.fixture
def place(tmp_path, monkeypatch, server):
    return Place(tmp_path, monkeypatch, "s3://bucket/run")


def there(server):
    """The objects of the run."""
    return {name.removeprefix("bucket/run/") for name in server.system.find("bucket")}


def sent_files(server):
    """The requests that sent files of results."""
    return [request for request in server.requests if request.startswith("PUT ") and "/.scoreonce/" not in request]


@pytest.mark.long
def test_the_whole_pipeline(place, server, capsys):
    assert [place.on("one")(stage) for stage in STAGES] == [0] * 6
    files = there(server)
    assert files >= PUBLISHED
    assert not any("lease" in name or "lock" in name for name in files)
    sent = Counter(sent_files(server))
    again = {request.rpartition("/")[2] for request, times in sent.items() if times > 1}
    # Of a training, at each checkpoint; on a busy machine requests time out and are sent again.
    assert again == {"metrics.jsonl", "metrics.crc32", "log.json"} or server.slept
    # Another machine has it all, finds nothing to do, and sends none of it again.
    before = place.weights
    server.requests.clear()
    assert [place.on("two")(stage) for stage in STAGES[:2] + STAGES[3:5]] == [0] * 4
    assert place.weights == before
    # Only the summary of the evaluation is another: it names the model by its path on that machine.
    assert set(sent_files(server)) == {"PUT /bucket/run/evaluate/dpo/summary.json"}
    capsys.readouterr()
    assert place.on("three")("sql", "SELECT count(*) AS n FROM pairs") == 0
    assert place("estimate") == 0
    assert [place(f"store {command}") for command in ("list", "verify", "gc")] == [0, 0, 0]
    assert place("store compact") == 2
    said = capsys.readouterr()
    assert "out is s3://bucket/run; its local copy is " in said.out
    assert "s3://bucket/run/store" in said.err
    # What was made of the pairs is known on a machine that has none of it.
    assert place.on("four")("prepare", "--set", "data.max_length=64") == 2
    assert "the training run dpo; the evaluation dpo" in capsys.readouterr().err
    assert there(server) >= files
    assert place("prepare", "--set", "data.max_length=64", "--restart") == 0
    left = there(server)
    assert not [name for name in left if name.startswith(("train/", "evaluate/", "reference/"))]
    assert "report.html" in left
    assert any(name.startswith("store/") for name in left)


def test_a_refused_kind_of_address_is_still_refused(place, capsys):
    assert place.on("one")("train", "--set", "reference.model=s3://bucket/model") == 2
    assert place("prepare", "--set", "out=s3://key:secret@bucket/run") == 2
    assert "it may hold credentials" in capsys.readouterr().err


def test_a_lease_is_created_once_on_s3(server, monkeypatch, capsys):
    monkeypatch.setattr(lease, "_keeps_conditions", {})
    folder = RemoteFolder.open("s3://bucket/run")
    assert folder.create("x", b"one")
    assert not folder.create("x", b"two")
    assert folder.read("x") == b"one"
    calls = itertools.count()
    server.fault = lambda method, path: "500" if method == "PUT" and next(calls) == 0 else None
    assert folder.create("y", b"one")
    server.fault = lambda method, path: None
    with lease.Lease(folder, "pairs", "here").held("pairs", timeout=0) as mine:
        mine.require_held()
    assert "are not kept apart" not in capsys.readouterr().err


def started(place, server, killing):
    """The command `train` in a process of its own, killed by the server where `killing` says so; its exit code."""
    program = []

    def fault(method, path):
        if killing(method, path):
            program[0].kill()
            return "500"
        return None

    server.fault = fault
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "scoreonce.stages.cli", "train", str(place.file)]
    program.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    code = program[0].wait(300)
    server.fault = lambda method, path: None
    return code


@pytest.mark.long
@pytest.mark.parametrize("until", ["step-000004/manifest.json", "index/train/dpo.json", "model/model.safetensors"])
def test_killed_while_it_publishes_it_goes_on_elsewhere(place, server, until, monkeypatch):
    """Killed at the request that would write this, the index at its third; the other ends with the same weights."""
    for stage in ("prepare", "score"):
        assert place.on("one")(stage) == 0
    seen = itertools.count(1)
    wanted = 3 if "index" in until else 1
    code = started(
        place, server, lambda method, path: method == "PUT" and path.endswith(until) and next(seen) == wanted
    )
    assert code == -signal.SIGKILL
    monkeypatch.setattr(lease, "STALE", -1.0)  # the killed command's lease is two minutes old at once
    assert place.on("two")("train") == 0
    files = there(server)
    found = place.weights
    assert not any("lease" in name for name in files)
    assert {Path(name).parts[3] for name in files if "/checkpoints/" in name} == {"step-000004", "step-000006"}
    assert place("train", "--restart") == 0
    assert place.weights == found
    assert place.on("three")("report") == 0


@pytest.mark.long
def test_through_faults(place, server, capsys):
    """Every seventh request fails, in turn with a 500, a 503 and a broken connection."""
    numbers = itertools.count(1)

    def fault(method, path):
        number = next(numbers)
        return ("500", "503", "cut")[number // 7 % 3] if number % 7 == 0 else None

    server.fault = fault
    assert [place.on("one")(stage) for stage in STAGES] == [0] * 6
    assert [place.on("two")(stage) for stage in STAGES] == [0] * 6
    server.fault = lambda method, path: None
    assert server.slept
    assert place.on("three")("store verify") == 0
    assert "wJalrXUtnFEMI" not in "".join(capsys.readouterr())


@pytest.mark.long
def test_a_server_that_hangs(place, server):
    for stage in ("prepare", "score"):
        assert place.on("one")(stage) == 0
    hung = itertools.count()
    server.fault = lambda method, path: "hang" if path.endswith("weights.safetensors") and next(hung) == 0 else None
    assert place("train") == 0
    assert place.on("two")("evaluate") == 0
