"""Files appear whole or not at all."""

import errno
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreonce.stages.common import files


@pytest.fixture
def disk(monkeypatch):
    """A disk with as many free bytes as a test says."""
    usage = SimpleNamespace(free=1 << 30)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    return usage


@pytest.mark.parametrize(("free", "raised"), [(0, OSError), (files.FULL - 1, OSError), (files.FULL, ValueError)])
def test_a_full_disk_is_told_whatever_a_library_says(tmp_path, disk, free, raised):
    disk.free = free
    with pytest.raises(raised) as caught, files.atomic(tmp_path / "a") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ValueError("File out of specification")
    if raised is OSError:
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(tmp_path / "a")
        assert str(caught.value.__cause__) == "File out of specification"
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_system_is_told_as_it_is(tmp_path, disk):
    disk.free = 0
    with pytest.raises(PermissionError), files.atomic(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_two_processes_of_the_same_number_write_to_files_of_their_own(tmp_path):
    """On two machines, or in two containers, where numbers are small."""
    with files.atomic(tmp_path / "a") as one, files.atomic(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
        assert one.read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "one"


def test_a_table_written_in_pieces_is_the_table_in_groups_of_rows(tmp_path):
    """Pieces of 3, 4 and 1 rows in groups of 4: 7 rows wait when the first two are there."""
    table = pa.table({"number": pa.array(range(8), pa.int64()), "share": pa.array([0.5] * 8, pa.float32())})
    with files.parquet_in_pieces(tmp_path / "a", rows_per_group=4) as write:
        for start, rows in ((0, 3), (3, 4), (7, 1)):
            write(table.slice(start, rows))
    metadata = pq.read_metadata(tmp_path / "a")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [4, 3, 1]
    assert files.read_parquet(tmp_path / "a").equals(table)


def test_a_table_that_fails_halfway_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="halfway"), files.parquet_in_pieces(tmp_path / "a", rows_per_group=1) as write:  # noqa: PT012
        write(pa.table({"number": [1]}))
        raise ValueError("halfway")
    assert list(tmp_path.iterdir()) == []


def test_of_a_large_file_a_few_row_groups_are_in_memory(tmp_path):
    """32 row groups of a MiB that cannot be compressed."""
    values = pa.array(np.random.default_rng(0).integers(1 << 62, size=32 << 17))
    pq.write_table(pa.table({"x": values}), tmp_path / "x.parquet", row_group_size=1 << 17)
    before = pa.total_allocated_bytes()
    batches = files.parquet_batches(tmp_path / "x.parquet", ["x"], 1 << 17)
    taken = [pa.total_allocated_bytes() - before for _ in batches]
    assert len(taken) == 32
    assert max(taken) < 8 << 20
