"""A short form of `make torture`, and its table."""

import logging
import random
from pathlib import Path

import pytest
import torture
from tortured.judge import FAULTS, MENDED, NAMED, SAID, SILENT, UNCHANGED, WRONG, Damage, Judge, Verdict
from tortured.kinds import KINDS, Kind
from tortured.world import make

# One kind for each way in which damage is met; `make torture` has them all.
SHORT = ("token ids", "manifest of the pairs", "store: hidden states", "checkpoint: optimizer", "lineage and settings")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torture")
    make(folder / "sound")
    return folder


@pytest.mark.filterwarnings("ignore")
def test_no_damage_changes_a_number_without_a_word(run, monkeypatch):
    monkeypatch.setattr("scoreonce.stages.common.digests.rehash", False)  # what the judge sets is undone
    judge, found = Judge(run / "sound", run), {}
    for kind in (kind for kind in KINDS if kind.name in SHORT):
        drawn = torture.damages(kind, run / "sound", 1, 1, seed=1)
        found[kind.name] = [judge.verdict(kind, damage, mend=False) for damage in drawn]
    faults = [(str(each.damage), each.detail) for all_ in found.values() for each in all_ if each.outcome in FAULTS]
    assert not faults
    assert {verdict.outcome for verdict in found["token ids"]} == {NAMED}
    assert {verdict.outcome for verdict in found["store: hidden states"]} == {MENDED}


def test_the_judge_sees_a_change_without_a_word(run, monkeypatch):
    """A reader that shows a file as it is, and looks at no digest."""
    monkeypatch.setattr("scoreonce.stages.common.digests.rehash", False)
    path = Path("out/pairs/train.tokens.arrow")

    def careless():
        return path.read_bytes().hex()

    kind = Kind("token ids", (), (careless,))
    verdict = Judge(run / "sound", run).verdict(kind, Damage(path, 100, 0), mend=False)
    assert verdict.outcome == SILENT


@pytest.mark.parametrize(("own", "outcome"), [(False, WRONG), (True, SAID)])
def test_other_numbers_are_a_fault_also_with_a_word_but_of_the_users_own_files(run, monkeypatch, own, outcome):
    monkeypatch.setattr("scoreonce.stages.common.digests.rehash", False)
    path = Path("out/pairs/train.tokens.arrow")

    def talkative():
        logging.getLogger("scoreonce").warning("It is damaged.")
        return path.read_bytes().hex()

    kind = Kind("token ids", (), (talkative,), own=own)
    assert Judge(run / "sound", run).verdict(kind, Damage(path, 100, 0), mend=False).outcome == outcome


def test_every_file_of_the_run_is_of_some_kind(run):
    """But for locks, what is written for people, and what no stage reads again."""
    sound = run / "sound"
    every = {path.relative_to(sound) for path in sound.rglob("*") if path.is_file()}
    known = {path.relative_to(sound) for kind in KINDS for path in kind.files(sound)}
    left = {path for path in every - known if path.suffix not in (".lock", ".html") and path.parts[0] != "cache"}
    assert {path.parts[:4] for path in left} == {("out", "train", label, "checkpoints") for label in ("dpo", "lora")}
    assert not known - every


def test_damages_are_drawn_by_seed_and_kind(run):
    first, second, other = (torture.damages(KINDS[3], run / "sound", 4, 2, seed=seed) for seed in (0, 0, 1))
    assert first == second != other
    assert [damage.bit is None for damage in first] == [False] * 4 + [True] * 2


def test_a_flip_changes_one_bit_and_no_date(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"\x00\x0f")
    before = path.stat().st_mtime_ns
    Damage(Path("f"), 1, 4).apply(tmp_path)
    assert path.read_bytes() == b"\x00\x1f"
    Damage(Path("f"), 1, None).apply(tmp_path)
    assert path.read_bytes() == b"\x00"
    assert path.stat().st_mtime_ns == before
    assert Damage.drawn([Path(path)], False, random.Random(0)).at == 0


def test_shares_and_table():
    """Two kinds: three damages of one, one of the other; the named command was run for two, and mended one."""
    assert sum(torture.shares(1000)) == 1000
    assert max(torture.shares(1000)) - min(torture.shares(1000)) == 1
    damage = Damage(Path("f"), 0, 1)
    named, failed = Verdict(damage, NAMED, mended=True), Verdict(Damage(Path("f"), 0, None), NAMED, mended=False)
    lines = torture.table({"a": [named, failed, Verdict(damage)], "b": [Verdict(damage, MENDED)]})
    assert lines[2] == "| a | 2 | 1 | 1 | 0 | 2 | 0 | 0 | 0 | 0 | 0 | 1 of 2 |"
    assert lines[-1] == "| all | 3 | 1 | 1 | 1 | 2 | 0 | 0 | 0 | 0 | 0 | 1 of 2 |"
    assert Verdict(damage).outcome == UNCHANGED
