"""A log is read while it grows."""

from scoreonce.stages.watch.tail import Tail


def test_half_a_line_waits_for_its_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.update() == []
    path.write_text('{"step": 1}\n{"step": ')
    assert tail.update() == [{"step": 1}]
    assert tail.update() == [{"step": 1}]
    with path.open("a") as file:
        file.write("2}\n")
    assert tail.update() == [{"step": 1}, {"step": 2}]
    assert tail.unreadable == 0


def test_lines_that_are_no_objects_are_counted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n[1]\n{"step": 2}\n')
    tail = Tail(path)
    assert tail.update() == [{"step": 1}, {"step": 2}]
    assert tail.unreadable == 2


def test_a_file_that_was_cut_or_replaced_is_read_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    tail = Tail(path)
    tail.update()
    path.write_text('{"step": 1}\n')
    assert tail.update() == [{"step": 1}]
    other = tmp_path / "other"
    other.write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": 2}\n{"step": 3, "loss": 3}\n')
    other.replace(path)
    assert [row["loss"] for row in tail.update()] == [1, 2, 3]
    path.unlink()
    assert tail.update() == []
