"""Data at hf:// addresses, by huggingface_hub's own file system, from a stand-in for the Hub."""

import json

import pytest
from hub_server import serving

from scoreonce.schemas.errors import InputError
from scoreonce.stages.raw.raw_data import open_data
from scoreonce.stages.remote import folder as remote_folder
from scoreonce.stages.remote import retries

ROWS = [{"prompt": f"p{number}", "chosen": "a", "rejected": "b"} for number in range(9)]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv("SCOREONCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retries, "DEFAULT", retries.Retries(sleep=lambda seconds: None))
    with serving() as server:
        monkeypatch.setitem(remote_folder._OPTIONS, "hf", {"endpoint": server.url, "token": server.token})
        server.repositories["org/set"] = {
            "main": {
                "README.md": b"# set\n",
                "data/train-0.jsonl": lines(ROWS[:5]),
                "data/test-0.jsonl": lines(ROWS[5:7]),
            }
        }
        yield server


def lines(rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def read(address, split="train"):
    return [row for batch in open_data(address, subset=None, split=split).batches(None) for row in batch]


def fetched(hub):
    return [request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hf://datasets/org/set/data", ROWS[:5]),
        ("hf://datasets/org/set/data/test-0.jsonl", ROWS[5:7]),
        ("hf://datasets/org/set@main/data/train-0.jsonl", ROWS[:5]),
    ],
)
def test_a_folder_and_a_file(hub, address, expected):
    assert read(address) == expected


def test_data_are_fetched_once_and_again_when_they_change(hub):
    address, files = "hf://datasets/org/set/data", hub.repositories["org/set"]["main"]
    assert read(address) == read(address) == ROWS[:5]
    assert read(address, split="test") == ROWS[5:7]
    assert fetched(hub) == ["train-0.jsonl", "test-0.jsonl"]
    files["data/train-0.jsonl"] = lines(ROWS[2:7])  # of the same size
    assert read(address) == ROWS[2:7]
    assert fetched(hub) == ["train-0.jsonl", "test-0.jsonl", "train-0.jsonl"]


def test_what_is_not_there_or_not_allowed(hub):
    with pytest.raises(InputError, match="nothing at an address") as absent:
        read("hf://datasets/org/other/x.jsonl")
    assert "HF_TOKEN" in absent.value.fix
    with pytest.raises(InputError, match="nothing at an address"):
        read("hf://datasets/org/set/data/none.jsonl")
    hub.refuse, asked = 403, len(hub.requests)
    with pytest.raises(InputError, match="cannot be listed") as refused:
        read("hf://datasets/org/set/data")
    assert "hf auth login" in refused.value.fix
    assert len(hub.requests) == asked + 1  # what is refused is not tried again


@pytest.mark.parametrize("status", [401, 403, 429, 503])
def test_a_refusal_lasts_and_a_busy_service_does_not(status):
    """As gcsfs says it: a status of its own, and only words for 403."""
    error = OSError("no")
    error.code = status
    assert retries.may_pass(error) == (status > 403)
    assert not retries.may_pass(OSError("Forbidden: b/bucket/o\nno access"))
