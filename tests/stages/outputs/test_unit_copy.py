"""A unit that two machines publish and fetch, through a bucket in which things go wrong."""

import json

import pytest
from object_store import faulty_folder, first

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.removal import remove
from scoreonce.stages.outputs import index
from scoreonce.stages.outputs.index import Entry, Index
from scoreonce.stages.outputs.unit_copy import SupersededError, UnitCopy


class Machine:
    """A machine with its own copy of a unit."""

    def __init__(self, folder, unit, remote):
        self.out, self.unit = folder / "out", unit
        self.copy = UnitCopy(unit, self.out, folder / "synced", remote)

    def write(self, files):
        """Files of the unit, by name."""
        for name, text in files.items():
            path = self.out / self.unit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def remove(self, name):
        """As a stage removes."""
        self.copy.removes(f"{self.unit}/{name}".rstrip("/"))
        remove(self.out / self.unit / name, inside=self.out)

    def fetched(self):
        """What is in the copy once it was fetched."""
        self.copy.fetch(lambda name: True)
        return contents(self.out / self.unit)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


class World:
    def __init__(self, folder, unit):
        self.bucket, self._folder, self._unit = folder / "bucket", folder, unit
        self.remote, self.system, self.clock = faulty_folder(self.bucket)

    def machine(self, name):
        return Machine(self._folder / name, self._unit, self.remote)

    def there(self):
        return contents(self.bucket / self._unit)


@pytest.fixture
def pairs(tmp_path):
    return World(tmp_path, "pairs")


@pytest.fixture
def training(tmp_path):
    return World(tmp_path, "train/dpo")


ONE = {"train": "one", "manifest.json": "1"}
TWO = {"train": "two", "manifest.json": "2"}


def test_another_machine_has_what_one_published_and_nothing_is_sent_twice(pairs):
    one, two = pairs.machine("one"), pairs.machine("two")
    assert one.fetched() == {}
    one.write(ONE)
    one.copy.publish()
    assert pairs.there() == two.fetched() == ONE
    pairs.system.done.clear()
    one.write(ONE)  # written again, with the same contents
    one.copy.publish()
    two.copy.publish()
    assert two.fetched() == one.fetched() == ONE
    assert pairs.system.done["put"] == pairs.system.done["get"] == 0
    two.write(TWO)
    two.copy.publish()
    assert pairs.there() == one.fetched() == TWO


def test_what_passes_is_not_noticed(pairs):
    one, two = pairs.machine("one"), pairs.machine("two")
    pairs.system.fault = first(2, "put", "half")
    one.write(ONE)
    one.copy.publish()
    pairs.system.fault = first(2, "get", "half")
    assert two.fetched() == ONE
    assert pairs.clock.slept


@pytest.mark.parametrize("stuck", ["train", "manifest.json"])
def test_half_of_a_replaced_result_is_seen_by_nobody(pairs, stuck):
    """The second result cannot be published to its end: neither is there, until the command that made it goes on."""
    one = pairs.machine("one")
    one.write(ONE)
    one.copy.publish()
    one.write(TWO)
    pairs.system.fault = lambda operation, path: "half" if operation == "put" and path.endswith(stuck) else None
    with pytest.raises(InputError, match="cannot be written"):
        one.copy.publish()
    pairs.system.fault = lambda operation, path: None
    assert pairs.machine("two").fetched() == {}
    assert one.copy.is_unpublished()
    assert one.fetched() == TWO
    one.copy.publish()
    assert pairs.machine("three").fetched() == TWO


def test_a_result_without_what_vouches_for_it_is_not_published(pairs):
    one = pairs.machine("one")
    one.write({"train": "one"})
    one.copy.publish()
    assert pairs.there() == {}
    assert not one.copy.is_unpublished()


STEP_2 = {"checkpoints/step-2/weights": "2", "checkpoints/step-2/manifest.json": "2"}
STEP_4 = {"checkpoints/step-4/weights": "4", "checkpoints/step-4/manifest.json": "4"}
BEGUN_ANEW = {"lineage.json": "other", "metrics.jsonl": "1"}
CHECKPOINT = {"lineage.json": "l", "metrics.jsonl": "12", **STEP_2}


def test_the_last_checkpoint_stays_until_the_next_is_whole(training):
    """With one checkpoint kept, the old one is removed here before the new one is at the address."""
    one = training.machine("one")
    one.write(CHECKPOINT)
    one.copy.publish()
    one.write({"metrics.jsonl": "1234", **STEP_4})
    one.remove("checkpoints/step-2")
    training.system.fault = lambda operation, path: "half" if operation == "put" and "step-4/w" in path else None
    with pytest.raises(InputError):
        one.copy.publish()
    assert "checkpoints/step-2/weights" in training.machine("two").fetched()
    assert not any("step-4" in name for name in training.machine("three").fetched())
    training.system.fault = lambda operation, path: None
    one.copy.publish()
    assert not any("step-2" in name for name in training.there())
    found = training.machine("four").fetched()
    assert found["checkpoints/step-4/weights"] == "4"
    assert found["metrics.jsonl"] == "1234"


def test_what_was_half_sent_is_removed_by_who_goes_on(training):
    one, two = training.machine("one"), training.machine("two")
    one.write(CHECKPOINT)
    one.copy.publish()
    one.write(STEP_4)
    training.system.fault = lambda operation, path: "error" if operation == "put" and "step-4/m" in path else None
    with pytest.raises(InputError):
        one.copy.publish()
    training.system.fault = lambda operation, path: None
    assert "checkpoints/step-4/weights" in training.there()
    two.fetched()
    two.write({"metrics.jsonl": "123"})
    two.copy.publish()
    assert not any("step-4" in name for name in training.there())


def test_old_checkpoints_are_not_seen_beside_a_run_that_was_begun_anew(training):
    one = training.machine("one")
    one.write(CHECKPOINT)
    one.copy.publish()
    one.remove("")
    one.write(BEGUN_ANEW)
    training.system.fault = lambda operation, path: "error" if operation == "put" else None
    with pytest.raises(InputError):
        one.copy.publish()
    training.system.fault = lambda operation, path: None
    assert training.machine("two").fetched() == {}
    # Killed, the command goes on without --restart: what it removed does not come back.
    assert one.fetched() == BEGUN_ANEW
    one.copy.publish()
    assert training.there() == training.machine("three").fetched() == BEGUN_ANEW


def test_only_what_was_published_and_removed_by_a_stage_is_removed(training):
    """Neither a file that somebody put there, nor one that vanished from the copy, nor anything beside the unit."""
    one = training.machine("one")
    one.write(CHECKPOINT)
    one.copy.publish()
    mine = [training.bucket / "train/dpo/notes.txt", training.bucket / "train/dpo2/lineage.json", training.bucket / "x"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (one.out / "train/dpo/checkpoints/step-2/weights").unlink()
    one.copy.publish()
    assert "checkpoints/step-2/weights" in one.fetched()
    one.remove("")
    one.copy.publish()
    assert training.there() == {"notes.txt": "mine"}
    assert [path.read_text() for path in mine] == ["mine"] * 3
    assert training.machine("two").fetched() == {}


def test_who_was_overtaken_is_told_and_follows(training, capsys):
    one, two = training.machine("one"), training.machine("two")
    one.write(CHECKPOINT)
    one.copy.publish()
    two.fetched()
    two.write(STEP_4)
    two.remove("checkpoints/step-2")
    two.copy.publish()
    one.write({"checkpoints/step-3/weights": "3", "checkpoints/step-3/manifest.json": "3"})
    with pytest.raises(SupersededError, match="Another machine has published"):
        one.copy.publish()
    found = one.fetched()
    assert found == two.fetched() == training.there()
    assert sorted(path.name for path in (one.out / "train/dpo/checkpoints").iterdir()) == ["step-4"]
    assert "only in the copy here are removed" in capsys.readouterr().err


def test_what_was_removed_at_the_address_is_removed_from_the_copy(pairs):
    one = pairs.machine("one")
    one.write(ONE)
    one.copy.publish()
    for path in [*pairs.bucket.rglob("*")][::-1]:
        path.rmdir() if path.is_dir() else path.unlink()
    assert one.fetched() == {}


def test_a_damaged_object_is_named_and_not_used(pairs, capsys):
    one, two = pairs.machine("one"), pairs.machine("two")
    one.write(ONE)
    one.copy.publish()
    (pairs.bucket / "pairs/train").write_text("0ne")
    assert two.fetched() == {"manifest.json": "1"}
    assert "not used: s3://bucket/bucket/pairs/train: the contents do not have the SHA-256" in capsys.readouterr().err
    two.write(ONE)  # made again, with the same contents as before
    two.copy.publish()
    assert pairs.there() == ONE


def test_checkpoints_of_a_finished_run_are_not_fetched_and_stay(training):
    one, two = training.machine("one"), training.machine("two")
    one.write({**CHECKPOINT, "model/weights": "w", "model/scoreonce.json": "m"})
    one.copy.publish()
    assert set(two.fetched()) == {"lineage.json", "metrics.jsonl", "model/weights", "model/scoreonce.json"}
    two.write({"merged/weights": "w"})
    two.copy.publish()
    assert "checkpoints/step-2/weights" in training.there()


@pytest.mark.parametrize("name", ["../../evil", "pairs/../../evil", "/etc/evil", "pairs/.ssh", "store/x"])
def test_an_index_that_leads_elsewhere_is_refused(pairs, name):
    tree = Index({}).tree() | {"files": {name: [1, None]}}
    path = pairs.bucket / index.FOLDER / "pairs.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(tree))
    with pytest.raises(InputError) as raised:
        pairs.machine("one").fetched()
    assert "which is no file of pairs" in raised.value.found
    assert raised.value.where == "s3://bucket/bucket/.scoreonce/index/pairs.json"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 9}', '{"format": 1, "files": {"pairs/x": 1}}', "\udcff"])
def test_an_index_that_cannot_be_read_is_no_empty_one(pairs, text):
    path = pairs.bucket / index.FOLDER / "pairs.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match="cannot be read"):
        pairs.machine("one").fetched()


def test_an_index_is_read_as_it_was_written(pairs):
    written = Index({"pairs/a": Entry(3, "ab"), "pairs/b": Entry(4, None)}, frozenset({"pairs/c"}))
    index.write(pairs.remote, "pairs", written)
    assert index.read(pairs.remote, "pairs") == written
    assert index.published_units(pairs.remote) == ["pairs"]


def test_files_that_somebody_else_put_there_are_not_replaced(pairs):
    (pairs.bucket / "pairs").mkdir(parents=True)
    (pairs.bucket / "pairs/train").write_text("mine")
    one = pairs.machine("one")
    one.write(ONE)
    with pytest.raises(InputError, match="scoreonce has not published") as raised:
        one.copy.publish()
    assert raised.value.where == "s3://bucket/bucket/pairs"
    assert pairs.there() == {"train": "mine"}
