"""Reading manifests: of this version, of another, damaged; and what differs."""

import json

import pytest
from written import lineage

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import (
    AuditManifest,
    EvaluationManifest,
    Lineage,
    Manifest,
    MeasuresManifest,
    PairsManifest,
    ReferenceManifest,
)
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256, write_json
from scoreonce.stages.common.manifests import ABSENT, UNREADABLE, Difference

DIGEST = "7e091f4725da93b8a3bfdc9685b66de266a1c8ba2fdee198f72520763900d998"
# As scoreonce 0.1 wrote them.
OLD_PAIRS = {
    "boundary_merged": 0,
    "config": {"columns": {"source": "subset"}, "limit": None, "max_length": 384, "source": "pairs.jsonl"},
    "counts": {"by_reason": {"sides_are_identical": 1}, "quarantined": 1, "raw": 400, "test": 52, "train": 298},
    "files": {"train.parquet": DIGEST},
    "format": 1,
    "inputs": {"pairs.jsonl": {"mtime_ns": 1795681058268195490, "sha256": DIGEST, "size": 444551}},
    "lengths": {"chosen": {"max": 355, "median": 53.5, "p95": 189.0}},
    "tokenizer": {"digest": "f58a", "name": "hh-llama-2.8M", "vocab_size": 2048},
    "truncated": {"chosen": 36, "prompt": 0, "rejected": 40},
}
OLD_REFERENCE = {
    "adapter": None,
    "dtype": "float32",
    "embeddings": False,
    "files": {"test.parquet": DIGEST, "train.parquet": DIGEST},
    "format": 1,
    "head": "float32",
    "layout": "packed",
    "mismatched": False,
    "model": "hh-llama-2.8M",
    "pairs": {"test": 52, "train": 298},
    "pairs_manifest_sha256": DIGEST,
    "store_key": "a71bff4132330d6f7f442457ece82a6b",
    "weights": DIGEST,
}
OLD_SUMMARY = {"accuracy": 0.56, "adapter": None, "dtype": "float32", "format": 1, "label": "dpo"}
OLD_MEASURES = {"contamination": {}, "format": 3, "pairs": DIGEST, "settings": {"ngram": 8}, "special": None}
OLD_AUDIT = {"data": {"source": "pairs.jsonl"}, "findings": [], "format": 1}


def old_lineage() -> dict:
    tree = lineage("dpo").model_dump(mode="json") | {"format": 1}
    del tree["data"]["config"]
    return tree


@pytest.mark.parametrize(
    ("kind", "tree"), [(PairsManifest, OLD_PAIRS), (ReferenceManifest, OLD_REFERENCE), (Lineage, old_lineage())]
)
def test_manifests_of_before_are_read_and_none_of_their_values_changes(tmp_path, kind, tree):
    write_json(tmp_path / "m.json", tree)
    found = manifests.read(kind, tmp_path / "m.json").model_dump(mode="json", exclude_unset=True)
    assert found == tree


def test_the_manifest_of_the_same_pairs_is_the_same_file(tmp_path):
    """Reference scores name the pairs by the digest of their manifest: reading and writing must not change it."""
    write_json(tmp_path / "old.json", OLD_PAIRS)
    manifests.write(tmp_path / "new.json", manifests.read(PairsManifest, tmp_path / "old.json"))
    assert sha256(tmp_path / "new.json") == sha256(tmp_path / "old.json")


@pytest.mark.parametrize(
    ("kind", "tree", "version", "reads", "command"),
    [
        (EvaluationManifest, OLD_SUMMARY, "format 1", "format 2", "scoreonce evaluate"),
        (MeasuresManifest, OLD_MEASURES, "format 3", "format 6", "scoreonce audit"),
        (AuditManifest, OLD_AUDIT, "format 1", "format 2", "scoreonce audit"),
        (PairsManifest, OLD_PAIRS | {"format": 9}, "format 9", "format 1", "scoreonce prepare"),
        (ReferenceManifest, {"model": "m"}, "no format", "format 1", "scoreonce score"),
        (Lineage, {"format": "x"}, "format 'x'", "format 1 and 2", "scoreonce train"),
        (Lineage, [1], "no format", "format 1 and 2", "scoreonce train"),
    ],
)
def test_another_version_is_named_with_the_command_to_run(tmp_path, kind, tree, version, reads, command):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(InputError, match="another version") as caught:
        manifests.read(kind, path)
    assert caught.value.found == f"{version}; this version reads {reads}"
    assert caught.value.where == str(path)
    assert command in caught.value.fix


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"counts": {"raw": 1}}, "counts.train: Field required"),
        ({"files": {"train.parquet": "abc"}}, "files.train.parquet: String should match"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
    ],
)
def test_a_damaged_manifest_names_the_field(tmp_path, change, found):
    write_json(tmp_path / "m.json", OLD_PAIRS | change)
    with pytest.raises(InputError, match="is damaged") as caught:
        manifests.read(PairsManifest, tmp_path / "m.json")
    assert caught.value.found.startswith(found)
    assert manifests.readable(PairsManifest, tmp_path / "m.json") is None


@pytest.mark.parametrize("contents", [b"", b"{", b"\xff\xfe", None])
def test_an_unreadable_or_absent_manifest(tmp_path, contents):
    if contents is not None:
        (tmp_path / "m.json").write_bytes(contents)
    with pytest.raises(InputError, match="not prepared" if contents is None else "cannot be read") as caught:
        manifests.read(PairsManifest, tmp_path / "m.json")
    assert "scoreonce prepare" in caught.value.fix


def test_differences_are_the_leaves_that_are_not_alike():
    then = {"max_length": 192, "columns": {"prompt": "q"}, "gone": True, "same": [1], "list": [1], "empty": None}
    now = {"max_length": 400, "columns": {"prompt": "q", "chosen": "a"}, "same": [1], "list": [1, 2], "empty": None}
    assert manifests.differences("data", then, now) == [
        Difference("data.max_length", 192, 400),
        Difference("data.columns.chosen", ABSENT, "a"),
        Difference("data.gone", True, ABSENT),
        Difference("data.list", [1], [1, 2]),
    ]


@pytest.mark.parametrize(
    ("then", "now", "text"),
    [
        (192, 400, "data.key: prepared with 192, now 400"),
        (None, 0.5, "data.key: prepared with nothing, now 0.5"),
        ("a", ABSENT, 'data.key: prepared with "a", now nothing'),
        (False, True, "data.key: prepared with false, now true"),
        (ABSENT, UNREADABLE, "data.key cannot be read"),
        ("ab" * 32, "cd" * 32, f"data.key: prepared with {'ab' * 8}…, now {'cd' * 8}…"),
    ],
)
def test_differences_in_words(then, now, text):
    assert Difference("data.key", then, now).text("prepared") == text


def test_finished_work_is_current_until_a_setting_or_a_file_changes(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"rows")
    files = {"train.parquet": sha256(tmp_path / "train.parquet")}
    path, wanted = tmp_path / "manifest.json", {"dtype": "float32", "mismatched": False}
    assert [change.key for change in manifests.changes(ReferenceManifest, path, wanted)] == ["manifest.json"]
    write_json(path, OLD_REFERENCE | {"files": files})
    assert manifests.changes(ReferenceManifest, path, wanted) == []
    assert manifests.changes(ReferenceManifest, path, wanted | {"dtype": "bfloat16"}) == [
        Difference("dtype", "float32", "bfloat16")
    ]
    (tmp_path / "train.parquet").write_bytes(b"Rows")
    (changed,) = manifests.changes(ReferenceManifest, path, wanted)
    assert (changed.key, changed.then) == ("train.parquet", files["train.parquet"])


def test_every_manifest_that_is_written_can_be_read():
    kinds = [PairsManifest, ReferenceManifest, Lineage, EvaluationManifest, MeasuresManifest, AuditManifest]
    for kind in kinds:
        assert kind.model_fields["format"].default == kind.formats()[-1]
        assert issubclass(kind, Manifest)
    tree = lineage("x").model_dump(mode="json")
    assert Lineage.model_validate(json.loads(json.dumps(tree))) == lineage("x")


def test_a_label_that_is_not_there_names_those_that_are(tmp_path):
    """A candidate of a comparison has a training for each seed, which are easily taken for one another."""
    with pytest.raises(InputError) as caught:
        manifests.read(Lineage, tmp_path / "train" / "simpo" / "lineage.json")
    assert caught.value.fix == "Run `scoreonce train` with this run file."
    for name in ("dpo-s0", "simpo-s0", ".half"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "lineage.json").touch()
    with pytest.raises(InputError) as caught:
        manifests.read(Lineage, tmp_path / "train" / "simpo" / "lineage.json")
    assert caught.value.found.endswith("lineage.json. Did you mean 'simpo-s0'?")
    assert caught.value.fix.startswith("Give one of these labels: dpo-s0, simpo-s0. Or for a new one: Run `scoreonce")
