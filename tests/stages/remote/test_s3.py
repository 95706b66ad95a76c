"""Against an S3 server on this machine: s3fs, botocore and HTTP are the real ones, and so are the faults."""

import itertools
import json
import shutil
import signal
import subprocess
import sys

import pytest
import tomli_w

from scoreonce.schemas.errors import InputError
from scoreonce.stages.commands import stores
from scoreonce.stages.raw.raw_data import open_data
from scoreonce.stages.remote import folder as remote_folder
from scoreonce.stages.remote.folder import RemoteFolder
from scoreonce.stages.score import stage as score

pytest.importorskip("s3fs", reason="needs s3fs: pip install -e '.[dev]'")
pytest.importorskip("moto", reason="needs moto: pip install -e '.[dev]'")
from s3_server import emptied, s3_server

pytestmark = pytest.mark.slow

ROWS = [{"prompt": f"p{number}", "chosen": "a", "rejected": "b"} for number in range(2000)]


@pytest.fixture(scope="module")
def running():
    with s3_server() as server:
        yield server


@pytest.fixture
def server(running, monkeypatch):
    return emptied(running, monkeypatch)


def times(count, method, wrong, ending=""):
    """The first `count` requests of a method for paths with that ending go wrong."""
    left = [count]

    def fault(asked, path):
        if asked != method or not path.endswith(ending) or left[0] == 0:
            return None
        left[0] -= 1
        return wrong

    return fault


def put(server, name, rows):
    server.system.pipe_file(f"bucket/{name}", "".join(f"{json.dumps(row)}\n" for row in rows).encode())


def read(address):
    return [row for batch in open_data(address, subset=None, split="train").batches(None) for row in batch]


def test_data_are_fetched_once_and_again_when_their_etag_changes(server):
    put(server, "set/train-0.jsonl", ROWS[:5])
    put(server, "set/train-1.jsonl", ROWS[5:9])
    put(server, "set/test-0.jsonl", ROWS[9:12])
    assert read("s3://bucket/set") == ROWS[:9]
    assert read("s3://bucket/set/test-0.jsonl") == ROWS[9:12]
    assert read("s3://bucket/set") == ROWS[:9]
    assert [server.count("GET", name) for name in ("train-0.jsonl", "train-1.jsonl", "test-0.jsonl")] == [1, 1, 1]
    put(server, "set/train-1.jsonl", ROWS[12:16])
    assert read("s3://bucket/set") == [*ROWS[:5], *ROWS[12:16]]
    assert [server.count("GET", name) for name in ("train-0.jsonl", "train-1.jsonl")] == [1, 2]


@pytest.mark.parametrize("wrong", ["500", "503", "cut", "hang"])
def test_what_passes_is_not_noticed(server, wrong):
    put(server, "pairs.jsonl", ROWS)
    server.fault = times(1 if wrong == "hang" else 3, "GET", wrong, "pairs.jsonl")
    assert read("s3://bucket/pairs.jsonl") == ROWS
    assert server.slept or wrong == "cut"  # s3fs goes on after a break by itself


def test_half_a_file_is_never_read(server, tmp_path):
    put(server, "pairs.jsonl", ROWS)
    server.fault = times(10_000, "GET", "cut", "pairs.jsonl")
    with pytest.raises(InputError, match="An address cannot be read"):
        read("s3://bucket/pairs.jsonl")
    assert [path for path in (tmp_path / "cache").rglob("*pairs.jsonl*") if path.is_file()] == []


def test_what_is_not_there(server):
    with pytest.raises(InputError, match="There is nothing at an address"):
        read("s3://bucket/none.jsonl")
    with pytest.raises(InputError) as raised:
        read("s3://no-such-bucket/none.jsonl")
    assert raised.value.fix == "Correct the address, or make the bucket."
    assert server.slept == []


def test_without_credentials(server, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(InputError) as raised:
        read("s3://bucket/pairs.jsonl")
    assert "credentials" in raised.value.found.lower()
    assert "AWS_PROFILE" in raised.value.fix
    assert server.slept == []


def test_a_server_that_is_not_there(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError) as raised:
        read("s3://bucket/pairs.jsonl")
    assert raised.value.what == "An address cannot be listed."
    assert "Could not connect" in raised.value.found
    assert "(the last of 6 tries)" in raised.value.found
    assert len(server.slept) == 5


def test_an_upload_without_an_answer_ends(server, monkeypatch, tmp_path):
    """Without a limit of our own, one of these waits for ever."""
    monkeypatch.setattr(remote_folder, "SECONDS", 0.6)
    (tmp_path / "x").write_bytes(b"x" * 5000)
    folder = RemoteFolder.open("s3://bucket/a")
    for number in range(2):
        server.fault = times(6, "PUT", "deaf")
        with pytest.raises(InputError, match="An address cannot be written"):
            folder.upload(tmp_path / "x", f"x{number}")
    server.fault = lambda method, path: None
    folder.upload(tmp_path / "x", "y")
    assert server.system.cat_file("bucket/a/y") == b"x" * 5000


def on_machine(world, monkeypatch, name):
    """The run file on a machine that has its own cache and its own `out`, from now on."""
    monkeypatch.setenv("SCOREONCE_CACHE", str(world.folder / f"cache-{name}"))
    out = world.folder / f"out-{name}"
    if not out.exists():
        shutil.copytree(world.folder / "out", out)
    return world.run(score={"store": "s3://bucket/scores"}).replace({"out": str(out)})


def rows_in(system):
    found = [name for name in system.find("bucket/scores") if "/shards/" in name and name.endswith(".json")]
    return sum(json.loads(system.cat_file(name))["rows"] for name in found)


def test_parts_on_two_machines_through_faults(world, server, monkeypatch):
    """Every fifth request fails, in turn with a 500, a 503 and a broken connection: 60 completions, each once."""
    pairs = world.random_pairs(30)
    world.prepare(pairs[:24], pairs[24:])
    local = score.score(world.run())
    numbers = iter(range(1_000_000))

    def fault(method, path):
        number = next(numbers)
        return ("500", "503", "cut")[number // 5 % 3] if number % 5 == 0 else None

    server.fault = fault
    one = score.score(on_machine(world, monkeypatch, "one"), part="1/2")
    two = score.score(on_machine(world, monkeypatch, "two"), part="2/2")
    assert (one.scored + two.scored, one.missing, two.missing) == (60, two.scored, 0)
    again = score.score(on_machine(world, monkeypatch, "one"))
    assert (again.scored, again.reused) == (0, 60)
    assert server.slept
    server.fault = lambda method, path: None
    assert rows_in(server.system) == 60
    assert stores.verify(on_machine(world, monkeypatch, "three")) == 0
    for split in ("train", "test"):
        table = local.pairs(split)
        assert again.pairs(split).equals(two.pairs(split))
        assert again.pairs(split)["pair_id"].equals(table["pair_id"])
        assert ((again.pairs(split)["ref_margin"] - table["ref_margin"]).abs() < 1e-4).all()


def test_a_bucket_that_refuses_writing_keeps_what_was_scored(world, server, monkeypatch):
    pairs = world.random_pairs(30)
    world.prepare(pairs[:24], pairs[24:])
    server.fault = lambda method, path: "500" if method == "PUT" and path.endswith(".parquet") else None
    with pytest.raises(InputError) as raised:
        score.score(on_machine(world, monkeypatch, "one"))
    assert raised.value.what == "The reference store cannot be written at its address."
    assert "wJalrXUtnFEMI" not in str(raised.value)
    assert "AKIATESTING" not in str(raised.value)
    server.fault = lambda method, path: None
    result = score.score(on_machine(world, monkeypatch, "one"))
    assert result.reused > 0
    assert result.scored + result.reused == 60 == rows_in(server.system)


def test_store_commands(world, server, monkeypatch, capsys):
    pairs = world.random_pairs(6)
    world.prepare(pairs)
    score.score(on_machine(world, monkeypatch, "one"))
    run = on_machine(world, monkeypatch, "two")
    capsys.readouterr()
    stores.list_stores(run)
    key = capsys.readouterr().out.split()[0]
    assert stores.verify(run) == 0
    server.system.pipe_file(f"bucket/scores/{key}/shards/20260101T000000000000-0123456789.parquet", b"half")
    stores.gc(run, prune=False, drop=[])
    stores.verify(run)
    assert "no sidecar, so it is being written" in capsys.readouterr().out
    stores.gc(run, prune=False, drop=[key])
    assert server.system.find("bucket/scores") == []


@pytest.mark.long
def test_killed_at_each_request_of_a_commit(world, server, monkeypatch, tmp_path):
    """Killed when the n-th request to write arrives, before it is carried out, and at last let go on: 60 completions.

    The first would write the identity, the second a file; the third is killed at a file and the fourth at a sidecar,
    after they have published what the one before left behind.
    """
    pairs = world.random_pairs(30)
    world.prepare(pairs[:24], pairs[24:])
    run = tmp_path / "run.toml"
    run.write_text(tomli_w.dumps(on_machine(world, monkeypatch, "one").model_dump(mode="json", exclude_unset=True)))
    for number in range(1, 5):
        seen, program = itertools.count(1), []

        def killing(method, path, seen=seen, program=program, number=number):
            if method == "PUT" and next(seen) == number:
                program[0].kill()
                return "500"
            return None

        server.fault = killing
        command = [sys.executable, "-m", "scoreonce.stages.cli", "score", str(run)]
        program.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        assert program[0].wait(300) == -signal.SIGKILL
    server.fault = lambda method, path: None
    result = score.score(on_machine(world, monkeypatch, "one"))
    assert result.scored + result.reused == 60 == rows_in(server.system)
    assert stores.verify(on_machine(world, monkeypatch, "two")) == 0
    again = score.score(on_machine(world, monkeypatch, "two"))
    assert (again.scored, again.reused) == (0, 60)
    assert again.pairs("train").equals(result.pairs("train"))
