"""What is written here is noticed to be damaged when it is read: JSON, TOML, lines of numbers."""

import json

import pytest

from scoreonce.stages.common.files import read_json, read_toml, write_json, write_toml
from scoreonce.stages.data.json_lines import append_line, checksums_of, read_lines, write_lines

JSON = {"step": 3, "loss": 0.5, "name": "β-DPO", "layers": {"10": [1, 2], "9": None}, "lines": (1, 2)}
LINES = [{"step": 1, "loss": 0.69}, {"step": 2, "loss": None}]


def damages(path):
    """Every version of a file with one bit flipped, and every shorter one."""
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            yield whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
        yield whole[:at]


def readings(path, read):
    """What the damaged versions are read as, but for those that are refused."""
    whole, found = path.read_bytes(), []
    for damaged in damages(path):
        path.write_bytes(damaged)
        try:
            found.append(read(path))
        except ValueError:
            continue
    path.write_bytes(whole)
    return found


@pytest.mark.parametrize(
    ("write", "read", "value"),
    [
        (write_json, read_json, json.loads(json.dumps(JSON))),
        (write_toml, read_toml, {"out": "runs/β", "train": {"beta": 0.1}}),
        (write_lines, lambda path: list(read_lines(path)), LINES),
    ],
    ids=["json", "toml", "lines"],
)
def test_no_flipped_bit_and_no_cut_changes_what_is_read(tmp_path, write, read, value):
    """Where it is in the spelling of a number or of the word "checksum", what is read may still be the same."""
    path = tmp_path / "file.json"
    write(path, value)
    assert read(path) == value
    for found in readings(path, read):
        if write is write_lines:
            assert found == value[: len(found)]  # as after a kill in the middle of a line
        else:
            assert {name: found[name] for name in value} == value


def test_a_damaged_checksum_of_a_line_is_noticed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_lines(path, LINES)
    for damaged in damages(checksums_of(path)):
        checksums_of(path).write_bytes(damaged)
        try:
            found = list(read_lines(path))
        except ValueError:
            continue
        assert found == LINES[: len(found)]


def test_lines_are_appended_and_the_damaged_one_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for numbers in LINES:
        append_line(path, numbers)
    assert list(read_lines(path)) == LINES
    path.write_text(path.read_text().replace('"loss": null', '"loss": 0.12'))
    lines = read_lines(path)
    assert next(lines) == LINES[0]
    with pytest.raises(ValueError, match="line 2 does not have the checksum"):
        next(lines)
    assert list(read_lines(path, checked=False))[1] == {"step": 2, "loss": 0.12}


def test_what_a_killed_process_left_of_the_last_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_lines(path, LINES)
    with path.open("ab") as handle:
        handle.write(b'{"step": 3}\n{"st')  # the line is there, its checksum is not; and half a line
    assert list(read_lines(path)) == LINES


def test_files_of_version_0_1_have_no_checksum(tmp_path):
    (tmp_path / "m.json").write_text('{"step": 1}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "run.toml").write_text('out = "x"\n')
    assert read_json(tmp_path / "m.json") == {"step": 1}
    assert list(read_lines(tmp_path / "metrics.jsonl")) == [{"step": 1}]
    assert read_toml(tmp_path / "run.toml") == {"out": "x"}
