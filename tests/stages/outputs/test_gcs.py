"""A whole run on Google Cloud Storage, by the command line: gcsfs is the real one, the server an emulator here."""

import os
import socket

import pytest
from remote_run import PUBLISHED, STAGES, Place, pairs

from scoreonce.schemas.errors import InputError
from scoreonce.stages.outputs import lease
from scoreonce.stages.raw.raw_data import open_data
from scoreonce.stages.remote.folder import RemoteFolder

# Read when gcsfs is imported: it would ask a service that the emulator does not have for the kind of each bucket.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
needs = "needs gcsfs and gcp-storage-emulator: make test-slow installs them"
pytest.importorskip("gcsfs", reason=needs)
emulator = pytest.importorskip("gcp_storage_emulator.server", reason=needs)

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture
def bucket(monkeypatch):
    """The file system of an emulator that runs, with an empty bucket named bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    with emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket"):
        yield RemoteFolder.open("gs://bucket")._filesystem


def there(bucket):
    """The digests of the run's objects by name."""
    found = bucket.find("bucket/run", detail=True)
    return {name.removeprefix("bucket/run/"): info["md5Hash"] for name, info in found.items()}


def test_the_whole_pipeline(tmp_path, monkeypatch, bucket, capsys):
    bucket.pipe_file("bucket/data/pairs.jsonl", pairs().encode())
    place = Place(tmp_path, monkeypatch, "gs://bucket/run", "gs://bucket/data/pairs.jsonl")
    assert [place.on("one")(stage) for stage in STAGES] == [0] * 6
    files = there(bucket)
    assert files.keys() >= PUBLISHED
    assert not any("lease" in name or "lock" in name for name in files)
    # Another machine has it all and finds nothing to do; only the evaluation names the model by its path there.
    before = place.weights
    assert [place.on("two")(stage) for stage in STAGES[:2] + STAGES[3:5]] == [0] * 4
    assert place.weights == before
    changed = {name for name, contents in there(bucket).items() if files.get(name) != contents}
    assert {name for name in changed if not name.startswith(".scoreonce/")} == {"evaluate/dpo/summary.json"}
    capsys.readouterr()
    # Changed data are noticed by their ETag.
    bucket.pipe_file("bucket/data/pairs.jsonl", pairs().replace("number 7:", "number 7?").encode())
    assert place("prepare") == 2
    assert "--restart" in capsys.readouterr().err
    assert place("prepare", "--restart") == 0
    assert place("store verify") == 0


def test_a_service_that_does_not_keep_the_condition_of_a_lease_is_said(bucket, capsys, monkeypatch):
    """As the emulator does not, other than the service itself."""
    monkeypatch.setattr(lease, "_keeps_conditions", {})
    folder = RemoteFolder.open("gs://bucket/run")
    with lease.Lease(folder, "pairs", "here").held("pairs", timeout=0) as mine:
        mine.require_held()
    assert "are not kept apart" in capsys.readouterr().err


def test_what_is_not_there(bucket):
    folder = RemoteFolder.open("gs://bucket/run")
    assert folder.read("none") is None
    assert folder.files() == {}
    with pytest.raises(InputError, match="nothing at an address") as absent:
        open_data("gs://bucket/none.jsonl", subset=None, split="train")
    assert absent.value.where == "gs://bucket/none.jsonl"


@pytest.mark.parametrize("status", [401, 403])
def test_what_is_refused_is_not_tried_again(bucket, monkeypatch, status):
    tries = []

    def refusing(self):
        tries.append(self.path)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    monkeypatch.setattr(emulator.RequestHandler, "do_GET", refusing)
    with pytest.raises(InputError) as refused:
        open_data("gs://bucket/pairs.jsonl", subset=None, split="train")
    assert "GOOGLE_APPLICATION_CREDENTIALS" in refused.value.fix
    assert len(tries) == 1
