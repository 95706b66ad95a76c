"""A model's identity follows its contents: not its name, its path, or what its config says about its origin."""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common import digests
from scoreonce.stages.common.files import read_json
from scoreonce.stages.weights import model_digests


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCOREONCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch):
    """The files that were read to be hashed."""
    read: list[Path] = []
    original = digests.sha256
    monkeypatch.setattr(digests, "sha256", lambda path: (read.append(path), original(path))[1])
    return read


def settle(path: Path) -> None:
    """Make a file old enough to be remembered."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 60 * 10**9))


def weights(contents: bytes) -> bytes:
    """A safetensors file of one tensor of bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(contents)], "data_offsets": [0, len(contents)]}}).encode()
    return len(header).to_bytes(8, "little") + header + contents


def model(folder: Path, contents: bytes = b"weights", **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 16} | config))
    (folder / "model.safetensors").write_bytes(weights(contents))
    settle(folder / "model.safetensors")
    return folder


def test_provenance_and_path_leave_the_identity_alone(tmp_path):
    one = model(tmp_path / "a", transformers_version="4.1", dtype="float32", text_config={"torch_dtype": "x", "n": 1})
    two = model(tmp_path / "b", _name_or_path="me/b", torch_dtype="bfloat16", text_config={"dtype": "float16", "n": 1})
    assert model_digests.model_digest(one) == model_digests.model_digest(two)


@pytest.mark.parametrize("change", [{"contents": b"Weights"}, {"hidden_size": 17}, {"text_config": {"n": 2}}])
def test_weights_and_architecture_change_the_identity(tmp_path, change):
    one = model(tmp_path / "a", text_config={"n": 1})
    two = model(tmp_path / "b", **({"text_config": {"n": 1}} | change))
    assert model_digests.model_digest(one) != model_digests.model_digest(two)


def test_code_that_comes_with_a_model_is_part_of_it(tmp_path):
    one, same, other = (model(tmp_path / name, auto_map={"AutoConfig": "own.Own"}) for name in "abc")
    for folder, factor in ((one, 1), (same, 1), (other, 2)):
        (folder / "parts").mkdir()
        (folder / "own.py").write_text("from .parts.head import factor")
        (folder / "parts" / "head.py").write_text(f"factor = {factor}")
    first, second, third = map(model_digests.model_digest, (one, same, other))
    assert first == second != third


def test_code_that_no_class_is_named_of_is_not(tmp_path):
    one, two = model(tmp_path / "a"), model(tmp_path / "b")
    (two / "convert.py").write_text("")
    assert model_digests.model_digest(one) == model_digests.model_digest(two)


def test_a_file_is_read_once(tmp_path, reads):
    folder = model(tmp_path / "a")
    first = model_digests.model_digest(folder)
    assert model_digests.model_digest(folder) == first
    assert reads == [folder / "model.safetensors"]


def test_a_changed_file_is_read_again(tmp_path, reads):
    folder = model(tmp_path / "a")
    first = model_digests.model_digest(folder)
    (folder / "model.safetensors").write_bytes(weights(b"wEights"))  # same size, other modification time
    assert model_digests.model_digest(folder) != first
    assert len(reads) == 2


def test_a_file_of_this_moment_is_not_remembered(tmp_path, reads):
    """Rewritten within one clock tick it could keep its size and modification time."""
    folder = model(tmp_path / "a")
    path = folder / "model.safetensors"
    path.touch()
    first, stamp = model_digests.model_digest(folder), path.stat()
    path.write_bytes(weights(b"wEights"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert model_digests.model_digest(folder) != first


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"x": 3}', "\x00\xff"])
def test_a_damaged_memo_is_ignored_and_replaced(tmp_path, cache, reads, damage):
    folder = model(tmp_path / "a")
    expected = model_digests.model_digest(folder)
    digests.memo_path().write_text(damage, encoding="latin-1")
    digests._read.clear()  # as in another process
    assert model_digests.model_digest(folder) == expected
    assert model_digests.model_digest(folder) == expected
    assert len(reads) == 2


def test_a_memo_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCOREONCE_CACHE", str(tmp_path / "file"))
    assert len(model_digests.model_digest(model(tmp_path / "a"))) == 64


def test_many_writers_lose_nothing(tmp_path):
    folders = [model(tmp_path / str(i), contents=bytes([i])) for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(model_digests.model_digest, folders))
    assert len(read_json(digests.memo_path())) == 24


def test_the_cache_follows_the_users_setting(tmp_path, monkeypatch):
    monkeypatch.delenv("SCOREONCE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert digests.memo_path() == tmp_path / "xdg" / "scoreonce" / "digests.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert digests.memo_path() == Path.home() / ".cache" / "scoreonce" / "digests.json"


def test_a_hub_blob_is_known_by_its_name(tmp_path, reads):
    digest = hashlib.sha256(weights(b"weights")).hexdigest()
    blob = tmp_path / "blobs" / digest
    blob.parent.mkdir()
    blob.write_bytes(weights(b"weights"))
    snapshot = model(tmp_path / "snapshots" / "r1")
    plain = model_digests.model_digest(snapshot)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(blob)
    reads.clear()
    assert model_digests.model_digest(snapshot) == plain
    assert reads == []


def test_a_link_that_is_no_hub_blob_is_read(tmp_path, reads):
    folder = model(tmp_path / "a")
    other = model(tmp_path / "b", contents=b"other")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(other / "model.safetensors")
    assert model_digests.model_digest(folder) == model_digests.model_digest(other)
    assert len(reads) == 1  # known by its real path afterwards


def test_shards_follow_their_index(tmp_path):
    folder = model(tmp_path / "a")
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in names:
        (folder / name).write_bytes(weights(name.encode()))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": names[0], "y": names[1]}}))
    before = model_digests.model_digest(folder)
    (folder / "stray.safetensors").write_bytes(b"not of this model")
    assert model_digests.model_digest(folder) == before
    (folder / names[1]).unlink()
    with pytest.raises(InputError, match=r"(?s)incomplete.*no model-00002"):
        model_digests.model_digest(folder)


def test_an_adapter_has_its_own_identity(tmp_path):
    def adapter(name: str, contents: bytes, **config: object) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"r": 4} | config))
        (tmp_path / name / "adapter_model.safetensors").write_bytes(weights(contents))
        return tmp_path / name

    one = model_digests.adapter_digest(adapter("a", b"x", base_model_name_or_path="there"))
    assert one == model_digests.adapter_digest(adapter("b", b"x", base_model_name_or_path="here"))
    assert one != model_digests.adapter_digest(adapter("c", b"y"))
    assert one != model_digests.adapter_digest(adapter("d", b"x", r=8))
    assert model_digests.adapter_digest(adapter("e", b"x", target_modules=["q", "v"])) == model_digests.adapter_digest(
        adapter("f", b"x", target_modules=["v", "q"])
    )
    with pytest.raises(InputError, match="adapter, not a whole model"):
        model_digests.model_digest(tmp_path / "a")


@pytest.mark.parametrize(
    ("removed", "message"), [("config.json", "no configuration"), ("model.safetensors", "no weights")]
)
def test_an_incomplete_folder_is_refused(tmp_path, removed, message):
    folder = model(tmp_path / "a")
    (folder / removed).unlink()
    with pytest.raises(InputError, match=message):
        model_digests.model_digest(folder)


def test_no_torch_is_needed():
    code = "import sys; import scoreonce.stages.weights.model_digests; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
