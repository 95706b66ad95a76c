"""Reading raw data: every kind of file, folders and their splits, rows that cannot be read, and the Hub."""

import bz2
import gzip
import json
import lzma
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import HubInput
from scoreonce.stages.raw import raw_files
from scoreonce.stages.raw.raw_data import RawData, columns_of, limited, open_data

ROWS = [{"prompt": f"p{number}", "chosen": "c", "rejected": "r"} for number in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def opened(path: Path, split: str | None = "train", batch_rows: int = 2) -> RawData:
    return open_data(str(path), subset=None, split=split, batch_rows=batch_rows)


def rows(path: Path, split: str | None = "train", columns: list[str] | None = None) -> list[dict | RowError]:
    return [row for batch in opened(path, split).batches(columns) for row in batch]


def write(path: Path, kept: list[dict] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(kept)
    text = "".join(json.dumps(row) + "\n" for row in kept)
    match "".join(path.suffixes):
        case ".jsonl" | ".ndjson":
            path.write_text(text)
        case ".jsonl.gz":
            path.write_bytes(gzip.compress(text.encode()))
        case ".json":
            path.write_text(json.dumps(kept, indent=1))
        case ".parquet":
            pq.write_table(table, path)
        case ".feather":
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        case ".arrow":  # as datasets writes it
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".jsonl.gz", ".json", ".parquet", ".feather", ".arrow"])
def test_every_kind_of_file_in_batches(tmp_path, suffix):
    path = write(tmp_path / f"data{suffix}")
    assert [len(batch) for batch in opened(path).batches(None)] in ([2, 2, 1], [5])
    assert rows(path) == ROWS


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", lambda data: pa.compress(data, codec="zstd", asbytes=True)),
    ],
)
@pytest.mark.parametrize("name", ["data.jsonl", "data.csv"])
def test_compressed_text(tmp_path, suffix, compress, name):
    text = LINES if name == "data.jsonl" else "prompt,chosen,rejected\n" + "".join(f"p{i},c,r\n" for i in range(5))
    (tmp_path / f"{name}{suffix}").write_bytes(compress(text.encode()))
    assert rows(tmp_path / f"{name}{suffix}") == ROWS


def test_a_compressed_file_that_ends_early(tmp_path):
    for suffix, compressed in (
        (".zst", pa.compress(LINES.encode(), codec="zstd", asbytes=True)),
        (".xz", lzma.compress(LINES.encode())),
    ):
        (tmp_path / f"data.jsonl{suffix}").write_bytes(compressed[:-4])
        with pytest.raises(InputError, match="cannot be read"):
            rows(tmp_path / f"data.jsonl{suffix}")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.csv", 'prompt,chosen,rejected\n"a, ""b""\nc",d,\n'),
        ("data.csv", 'prompt;chosen;rejected\r\n"a, ""b""\nc";d;\r\n'),
        ("data.tsv", '\ufeffprompt\tchosen\trejected\n"a, ""b""\nc"\td\t\n'),
    ],
)
def test_tables_of_text(tmp_path, name, text):
    """Quoted delimiters, quotes and line ends; an empty field is a missing value; a byte-order mark is skipped."""
    (tmp_path / name).write_bytes(text.encode())
    assert rows(tmp_path / name) == [{"prompt": 'a, "b"\nc', "chosen": "d", "rejected": None}]
    assert opened(tmp_path / name).untyped


def test_rows_of_a_table_that_cannot_be_read(tmp_path):
    (tmp_path / "data.csv").write_bytes(b"prompt,chosen\na,b\na,b,c\n\n\xff,b\n" + b"d" * 200_000 + b",e\n")
    found = rows(tmp_path / "data.csv")
    assert [row.reason if isinstance(row, RowError) else len(row["prompt"]) for row in found] == [
        1,
        "invalid_csv",
        "invalid_utf8",
        200_000,
    ]
    assert found[1].detail == "line 3 of data.csv: 3 fields, the first line has 2"


@pytest.mark.parametrize("text", [json.dumps(ROWS), json.dumps(ROWS, indent=1), f"[\n{json.dumps(ROWS)[1:]}"])
def test_one_array_under_the_name_of_json_lines(tmp_path, text):
    (tmp_path / "data.jsonl").write_text(text)
    assert rows(tmp_path / "data.jsonl") == ROWS


def test_a_list_in_the_first_line_of_json_lines_is_a_row_that_is_refused(tmp_path):
    (tmp_path / "data.jsonl").write_text("[1]\n" + LINES)
    found = rows(tmp_path / "data.jsonl")
    assert (found[0].reason, found[1:]) == ("invalid_json", ROWS)


@pytest.mark.parametrize(
    ("name", "advice"), [("data.txt", "rename it"), ("data.parquet.gz", "Decompress it"), ("data.xlsx", "Convert it")]
)
def test_a_file_of_no_kind_that_is_read_is_named(tmp_path, name, advice):
    (tmp_path / name).write_text("prompt\tchosen\trejected\na\tb\tc\n")
    with pytest.raises(InputError) as caught:
        opened(tmp_path / name)
    assert caught.value.found == name
    assert advice in caught.value.fix


def test_json_that_is_lines_after_all_and_a_byte_order_mark(tmp_path):
    (tmp_path / "lines.json").write_text(LINES)
    (tmp_path / "marked.jsonl").write_bytes(b"\xef\xbb\xbf" + LINES.encode())
    assert rows(tmp_path / "lines.json") == rows(tmp_path / "marked.jsonl") == ROWS


def test_only_the_columns_asked_for_are_read_from_parquet(tmp_path):
    assert rows(write(tmp_path / "data.parquet"), columns=["prompt", "absent"])[0] == {"prompt": "p0"}


def test_rows_that_are_not_json_objects_stand_in_their_place(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"prompt": "p"}\n\n{"prompt": \n"text"\n{"prompt": "\xff"}\n[1]\n{"prompt": "q"}\n')
    found = rows(path)
    assert [row.reason if isinstance(row, RowError) else row["prompt"] for row in found] == [
        "p",
        "invalid_json",
        "invalid_json",
        "invalid_utf8",
        "invalid_json",
        "q",
    ]
    assert [row.detail.split(":")[0] for row in found if isinstance(row, RowError)] == [
        "line 3 of data.jsonl",
        "line 4 of data.jsonl should be an object and is text",
        "line 5 of data.jsonl",
        "line 6 of data.jsonl should be an object and is a list",
    ]


def test_a_text_in_parquet_that_is_not_utf8(tmp_path):
    broken = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": broken}), tmp_path / "data.parquet")
    found = rows(tmp_path / "data.parquet")
    assert [row.reason if isinstance(row, RowError) else row["prompt"] for row in found] == [
        "good",
        "invalid_utf8",
        "fine",
    ]


def test_a_folder_of_shards_in_order_of_their_names(tmp_path):
    for number in (1, 0, 2):
        write(tmp_path / f"part-{number}.parquet", [{"prompt": str(number)}])
    (tmp_path / "README.md").write_text("about")
    assert [row["prompt"] for row in rows(tmp_path)] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("data/train.parquet", "data/test.parquet"),
        ("train/data-0.parquet", "test/data-0.parquet"),
        ("train_0.parquet", "test_0.parquet"),
    ],
)
def test_a_folder_with_splits(tmp_path, names):
    for name in names:
        write(tmp_path / name, [{"prompt": name}])
    assert [row["prompt"] for row in rows(tmp_path, "train")] == [names[0]]
    assert (
        [row["prompt"] for row in rows(tmp_path, "test")]
        == [row["prompt"] for row in rows(tmp_path, None)]
        == [names[1]]
    )
    with pytest.raises(InputError, match="no split 'validation'") as caught:
        opened(tmp_path, "validation")
    assert caught.value.found == "test, train"


def test_splits_of_the_hubs_kind_are_not_mixed(tmp_path):
    for name in ("train_prefs-0.parquet", "train_sft-0.parquet"):
        write(tmp_path / name, [{"prompt": name}])
    assert [row["prompt"] for row in rows(tmp_path, "train_prefs")] == ["train_prefs-0.parquet"]
    with pytest.raises(InputError, match="no split 'train'"):
        opened(tmp_path)


def test_a_folder_saved_by_datasets(tmp_path):
    import datasets

    datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    ).save_to_disk(tmp_path / "saved", num_proc=None)
    assert rows(tmp_path / "saved", "train") == ROWS
    assert rows(tmp_path / "saved", "test") == ROWS[:1]


def test_a_folder_without_splits_serves_as_held_out_data_but_has_no_test_split(tmp_path):
    write(tmp_path / "data.parquet")
    assert rows(tmp_path, None) == ROWS
    with pytest.raises(InputError, match="no split 'test'"):
        opened(tmp_path, "test")


def test_mixed_content_is_refused(tmp_path):
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.jsonl")
    with pytest.raises(InputError, match="mixes file types, or has one that cannot be read") as caught:
        opened(tmp_path)
    assert caught.value.found == "a.parquet, b.jsonl"


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: folder / "absent.jsonl",
        lambda folder: folder / "absent",
        lambda folder: (folder / "data.txt").write_text("a,b") and folder / "data.txt",
        lambda folder: (folder / "README.md").write_text("about") and folder,
    ],
)
def test_what_cannot_be_read_at_all(tmp_path, make):
    with pytest.raises(InputError):
        opened(make(tmp_path))


def test_no_such_file_names_the_nearest(tmp_path):
    write(tmp_path / "pairs.jsonl")
    with pytest.raises(InputError) as caught:
        opened(tmp_path / "pair.jsonl")
    assert "pairs.jsonl'?" in caught.value.found


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".parquet", ".arrow", ".json"])
def test_a_damaged_file(tmp_path, suffix):
    path = write(tmp_path / f"data{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="cannot be read") as caught:
        rows(path)
    assert caught.value.where == str(path)


def test_identity_follows_the_contents(tmp_path):
    before = opened(write(tmp_path / "data.jsonl")).inputs
    assert opened(tmp_path / "data.jsonl").inputs == before
    write(tmp_path / "data.jsonl", [{**row, "chosen": "x"} for row in ROWS])
    [(path, now)] = opened(tmp_path / "data.jsonl").inputs.items()
    assert now.sha256 != before[path].sha256
    assert now.size == before[path].size


@pytest.mark.parametrize(("limit", "sizes"), [(None, [2, 2, 1]), (2, [2]), (3, [2, 1]), (9, [2, 2, 1])])
def test_limit(tmp_path, limit, sizes):
    batches = opened(write(tmp_path / "data.jsonl")).batches(None)
    assert [len(batch) for batch in limited(batches, limit)] == sizes


def test_columns_in_order_of_appearance():
    assert columns_of([{"b": 1}, RowError("invalid_json", ""), {"a": 1, "b": 2}]) == ["b", "a"]


def test_a_hub_dataset_is_read_at_the_hubs_revision(monkeypatch):
    import datasets
    from huggingface_hub import DatasetInfo, HfApi

    asked = []

    def load_dataset(*names: object, **options: object) -> datasets.Dataset:
        asked.append((names, options))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: DatasetInfo(id="org/name", sha="abc"))
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = open_data("org/name", subset="sub", split="train_prefs", batch_rows=2)
    assert asked == [(("org/name", "sub"), {"split": "train_prefs", "revision": "abc", "streaming": False})]
    assert [row for batch in data.batches(["prompt"]) for row in batch] == [{"prompt": row["prompt"]} for row in ROWS]
    assert data.inputs == {"org/name:sub:train_prefs": HubInput(rows=5, revision="abc")}


def test_a_hub_dataset_that_is_not_there(monkeypatch):
    import datasets
    from huggingface_hub import HfApi

    def refuse(*_: object, **__: object) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'org/nme' doesn't exist on the Hub")

    monkeypatch.setattr(HfApi, "dataset_info", refuse)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        open_data("org/nme", subset=None, split="train")
    assert "doesn't exist" in caught.value.found


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub of one dataset of three files, read by datasets' own streaming from this disk."""
    import datasets
    from huggingface_hub import DatasetInfo, HfApi

    honest, asked = datasets.load_dataset, []
    for shard in range(3):
        rows = (json.dumps({"prompt": f"p{shard}-{n}", "other": n}) for n in range(4))
        (tmp_path / f"shard-{shard}.jsonl").write_text("\n".join(rows))

    def load_dataset(*names: object, **options: object) -> object:
        asked.append((names, options))
        files = sorted(map(str, tmp_path.glob("shard-*.jsonl")))
        return honest("json", data_files={"train": files}, split="train", streaming=options["streaming"])

    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: DatasetInfo(id="org/name", sha="abc"))
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_hub_dataset_that_is_streamed(hub):
    """File after file, as often as it is asked for; nothing says how many rows there are."""
    data = open_data("org/name", subset=None, split="train", streaming=True, batch_rows=3)
    assert hub == [(("org/name", None), {"split": "train", "revision": "abc", "streaming": True})]
    expected = [f"p{shard}-{n}" for shard in range(3) for n in range(4)]
    for columns, names in ((["prompt"], {"prompt"}), (None, {"prompt", "other"})):
        batches = list(data.batches(columns))
        assert [row["prompt"] for batch in batches for row in batch] == expected
        assert max(map(len, batches)) == 3
        assert all(set(row) == names for batch in batches for row in batch)
    assert data.rows == 0
    assert data.inputs == {"org/name:train": HubInput(revision="abc")}
    assert data.inputs["org/name:train"].content == "revision abc"


def test_a_stream_that_ends_in_the_middle(hub, tmp_path):
    (tmp_path / "shard-2.jsonl").write_text('{"prompt": "p", "oth')
    data = open_data("org/name", subset=None, split="train", streaming=True, batch_rows=3)
    with pytest.raises(InputError, match="cannot be read to its end") as caught:
        list(data.batches(["prompt"]))
    assert "data.streaming = false" in caught.value.fix


def test_a_stream_of_an_unknown_revision_is_refused(monkeypatch):
    from huggingface_hub import HfApi

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("off line")

    monkeypatch.setattr(HfApi, "dataset_info", refuse)
    with pytest.raises(InputError, match="revision of the dataset is not known"):
        open_data("org/name", subset=None, split="train", streaming=True)


# ---- input that is made to hurt ----


def test_short_first_lines_are_rows_of_their_own(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{}\n1\n\n{"prompt": "p"}\n')
    found = rows(path)
    assert [row.reason if isinstance(row, RowError) else row for row in found] == [{}, "invalid_json", {"prompt": "p"}]


@pytest.mark.parametrize(
    "value",
    ["9" * 5000, "[" * 100_000 + "]" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "-" + "1" * 9999, "[" * 50_000],
)
def test_a_value_that_python_does_not_parse_is_one_row(tmp_path, value):
    path = tmp_path / "data.jsonl"
    path.write_text(f'{LINES}{{"prompt": {value}}}\n{LINES}')
    found = rows(path)
    assert [row for row in found if isinstance(row, dict)] == ROWS * 2
    assert found[5].reason == "invalid_json"
    (tmp_path / "data.json").write_text(f'[{{"prompt": {value}}}]')
    with pytest.raises(InputError, match="cannot be read"):
        rows(tmp_path / "data.json")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_long_line_is_passed_over_in_bounded_memory(tmp_path, monkeypatch, suffix):
    """Lines of 100 bytes are read, of 101 not, and nothing longer than 100 bytes is asked for."""
    asked = []
    monkeypatch.setattr(raw_files, "LONGEST_LINE", 100)

    def row(length: int) -> bytes:
        return b'{"prompt": "%s"}\n' % (b"x" * (length - len(b'{"prompt": ""}\n')))

    text = row(100) + row(101) + row(5000) + row(99) + b"y" * 777
    path = tmp_path / f"data{suffix}"
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    opener = gzip.open if suffix.endswith("gz") else open
    with opener(path, "rb") as handle:

        class Asked:
            def readline(self, size):
                asked.append(size)
                return handle.readline(size)

        lines = list(raw_files._json_rows(Asked(), "data", may_be_array=False))
    assert set(asked) == {100}
    assert [len(line["prompt"]) if isinstance(line, dict) else line.reason for line in lines] == [
        85,
        "line_too_long",
        "line_too_long",
        84,
        "line_too_long",
    ]
    assert lines[1].detail == "line 2 of data: over 100 bytes"


def test_an_array_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_files, "LARGEST_ARRAY", 1000)
    (tmp_path / "data.json").write_text(json.dumps(ROWS * 100, indent=1))
    with pytest.raises(InputError) as raised:
        rows(tmp_path / "data.json")
    assert "one JSON array of over 1,000 bytes; write one object a line" in raised.value.found


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([10**7, 1], pa.date32()),
        ([2**62, 1], pa.date64()),
        ([2**62, 1], pa.timestamp("us")),
        ([2**62, 1], pa.duration("s")),
        ([2**62, 1], pa.time64("us")),
        ([1, 1], pa.timestamp("us", "Nowhere/Land")),
    ],
    ids=str,
)
def test_a_date_out_of_range_spoils_no_row_that_does_not_need_it(tmp_path, values, kind):
    dates = pa.array(values, pa.int32() if kind == pa.date32() else pa.int64()).view(kind)
    pq.write_table(pa.table({"prompt": ["p", "q"], "day": dates}), tmp_path / "data.parquet")
    found = rows(tmp_path / "data.parquet")
    assert [row["prompt"] for row in found] == ["p", "q"]
    assert isinstance(found[0]["day"], raw_files.Unreadable)
    assert rows(tmp_path / "data.parquet", columns=["prompt"]) == [{"prompt": "p"}, {"prompt": "q"}]


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_two_columns_of_one_name_are_refused(tmp_path, suffix):
    table = pa.table([pa.array(["p"]), pa.array(["q"])], names=["prompt", "prompt"])
    path = tmp_path / f"data{suffix}"
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(InputError) as raised:
        rows(path)
    assert "two columns have the name 'prompt'" in raised.value.found


def test_what_is_read_once_is_no_dataset(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        opened(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        opened(Path("/dev/null"))
    with pytest.raises(InputError, match="has no data files"):
        opened(tmp_path)
