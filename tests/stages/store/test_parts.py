"""Parts of a store: every completion in one of them, and who waits for whom."""

import threading

import polars as pl
import pytest
from filelock import FileLock

from scoreonce.schemas import identity
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common import locking
from scoreonce.stages.store.identity import StoreIdentity
from scoreonce.stages.store.parts import Part, mark_of, parts_of, prompt_bits
from scoreonce.stages.store.store import ReferenceStore

FIRST, SECOND = Part(1, 2), Part(2, 2)


@pytest.fixture
def store(tmp_path) -> ReferenceStore:
    return ReferenceStore(tmp_path, StoreIdentity("w" * 64, "float32"), "tiny")


def test_the_part_of_a_prompt_by_hand():
    """0x0000000a = 10 = 3 * 3 + 1, 0x00000100 = 256 = 85 * 3 + 1, 0xffffffff = 1,431,655,765 * 3: parts 2, 2 and 1."""
    prompts = pl.DataFrame({"prompt_id": ["0000000a" + "7" * 24, "00000100" + "f" * 24, "ffffffff" + "0" * 24]})
    assert [prompts.select(Part(n, 3).holds("prompt_id")).to_series().to_list() for n in (1, 2, 3)] == [
        [False, False, True],
        [True, True, False],
        [False, False, False],
    ]


def test_the_parts_that_prompts_are_in_by_hand():
    """As above: 10 and 256 leave 1 when divided by 3, 2**32 - 1 leaves 0; by 4 they leave 2, 0 and 3."""
    prompts = pl.DataFrame({"prompt_id": ["0000000a" + "7" * 24, "00000100" + "f" * 24, "ffffffff" + "0" * 24]})
    bits = prompts.select(prompt_bits("prompt_id")).to_series()
    assert parts_of(bits, 3) == [Part(1, 3), Part(2, 3)]
    assert parts_of(bits, 4) == [Part(1, 4), Part(3, 4), Part(4, 4)]


@pytest.mark.parametrize("of", [1, 2, 7, 8, 1000])
def test_every_prompt_is_in_exactly_one_part(of):
    prompts = pl.DataFrame({"prompt_id": [identity.prompt_id([number]) for number in range(2000)]})
    parts = prompts.select(Part(n, of).holds("prompt_id").alias(str(n)) for n in range(1, of + 1))
    assert parts.sum_horizontal().to_list() == [1] * 2000
    if of == 8:  # 250 each, with a standard deviation of 14.8
        assert all(250 - 5 * 14.8 < size < 250 + 5 * 14.8 for size in parts.sum().row(0))


def test_a_part_by_its_name():
    assert (Part.parse("3/8"), Part.parse("08/8"), Part.parse("1/1")) == (Part(3, 8), Part(8, 8), Part(1, 1))
    assert (str(Part(3, 8)), Part(3, 8).mark) == ("3/8", "3of8")


@pytest.mark.parametrize("text", ["0/8", "9/8", "x", "3/0", "", "3", "3/8/9", "-1/8", "3/8\n", "³/8", " 3/8", "1.0/8"])
def test_what_is_no_part_is_said(text):
    with pytest.raises(InputError) as raised:
        Part.parse(text)
    error = raised.value
    assert error.what == "There is no such part."
    assert error.found == repr(text)
    assert "--part" in error.where
    assert "counted from 1" in error.fix


def test_the_mark_of_a_file(store):
    names = ["20260101T000000000000-3of8-0123456789.parquet", ".20260101T000000000000-3of8-0123456789.json.7-ab.tmp"]
    assert [mark_of(store.folder / name) for name in names] == ["3of8", "3of8"]
    assert mark_of(store.folder / "20260101T000000000000-0123456789.parquet") is None
    assert mark_of(store.folder / ".head.safetensors.7-ab.tmp") is None


def test_parts_do_not_wait_for_each_other(store):
    with store.scoring_part(FIRST, timeout=0), store.scoring_part(SECOND, timeout=0):
        for _ in range(2):
            with store.changing(timeout=0):
                pass


def test_the_same_part_is_scored_once_at_a_time(store):
    with (
        store.scoring_part(FIRST),
        pytest.raises(InputError, match=r"Part 1/2 of the reference store of tiny is in use") as raised,
        store.scoring_part(FIRST, timeout=0),
    ):
        pass
    assert "process" in raised.value.found


def test_a_writer_of_the_whole_waits_for_a_part_and_says_for_which(store):
    with (
        store.scoring_part(SECOND),
        pytest.raises(InputError, match=r"Part 2/2 of the reference store of tiny is in use"),
        store.writing(timeout=0),
    ):
        pass
    with store.writing(timeout=0):
        pass


def test_a_waiting_writer_of_the_whole_keeps_nothing_from_a_part_that_ends(store, capfd):
    """The writer lets go of write.lock while it waits, or the part could not change what is shared and end."""
    waiting, written = threading.Event(), threading.Event()

    class Said:
        def write(self, text: str) -> None:
            if "waiting: part 1/2 of the reference store of tiny is in use by process" in text:
                waiting.set()

        def flush(self) -> None:
            pass

    def write() -> None:
        with store.writing():
            written.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", Said())
        with store.scoring_part(FIRST):
            writer = threading.Thread(target=write)
            writer.start()
            assert waiting.wait(60)
            with store.changing(timeout=60):
                assert not written.is_set()
        writer.join(60)
    assert written.is_set()


def test_a_part_waits_for_a_writer_of_the_whole(store):
    with (
        store.writing(),
        store.scoring_part(FIRST, timeout=0),
        pytest.raises(InputError, match=r"The reference store of tiny is in use"),
        store.changing(timeout=0),
    ):
        pass


def test_each_removes_what_only_a_dead_process_can_have_left(store):
    """A file with a mark is its part's, one without is that of whoever held write.lock."""
    with store.writing():
        pass
    store.tensors("hidden").folder.mkdir()
    (store.folder / "index").mkdir()
    left = {
        "first": store.shards_folder / ".20260101T0-1of2-01.parquet.7-ab.tmp",
        "first, no sidecar": store.shards_folder / "20260101T0-1of2-02.parquet",
        "first, a block": store.folder / "hidden" / "20260101T0-1of2-03.safetensors",
        "second": store.shards_folder / "20260101T0-2of2-04.parquet",
        "first of four": store.shards_folder / "20260101T0-1of4-05.parquet",
        "whole": store.shards_folder / "20260101T0-06.parquet",
        "head": store.folder / "hidden" / ".head.safetensors.7-ab.tmp",
        "identity": store.folder / ".identity.json.7-ab.tmp",
        "index": store.folder / "index" / "shards-0123456789.bin",
    }
    for path in left.values():
        path.write_bytes(b"half")

    def remaining() -> set[str]:
        return {name for name, path in left.items() if path.exists()}

    with store.scoring_part(FIRST):
        assert remaining() == {"second", "first of four", "whole", "head", "identity", "index"}
        with store.changing():
            assert remaining() == {"second", "first of four"}
        store.tidy()
        assert remaining() == {"second", "first of four"}, "they may be those of a part at work"
    store.tidy()
    assert remaining() == set()


def test_a_short_wait_is_not_worth_a_message(tmp_path, monkeypatch, capfd):
    """Who holds the lock lets it go as soon as the other waits."""
    path = tmp_path / "x.lock"
    other = FileLock(path)

    class Waited(FileLock):
        def acquire(self, timeout, **options):
            if timeout != 0:
                other.release()
            return super().acquire(timeout, **options)

    monkeypatch.setattr(locking, "FileLock", Waited)
    for patience, said in ((5, ""), (0, "waiting: it is in use by")):
        other.acquire(timeout=0)
        with locking.exclusive(path, "it", patience=patience):
            pass
        err = capfd.readouterr().err
        assert err.startswith(said)
        assert bool(err) == bool(said)


def test_the_wait_without_a_message_counts(tmp_path, capfd):
    path = tmp_path / "x.lock"
    with locking.exclusive(path, "it"), pytest.raises(InputError), locking.exclusive(path, "it", timeout=0, patience=5):
        pass
    assert capfd.readouterr().err == ""
