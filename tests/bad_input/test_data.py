"""Data that no pair can be made of, and files that are no data."""

import gzip
import json
import os
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_input import Case

ROW = {"prompt": "p1", "chosen": "yes", "rejected": "no"}
PREPARE = "prepare RUN --set out={own}/out --set data.source={own}/"


def lines(*rows: object) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def parquet(own: Path, **columns: object) -> None:
    pq.write_table(pa.table(columns), own / "d.parquet")


def twins(own: Path) -> None:
    """Two columns of one name."""
    names = ["prompt", "chosen", "rejected", "chosen"]
    pq.write_table(pa.table([pa.array([text]) for text in ("p1", "yes", "no", "p2")], names=names), own / "d.parquet")


def endless(own: Path) -> None:
    """A row of 65 MB of zeros in a file of 65 kB."""
    with gzip.open(own / "d.jsonl.gz", "wb", compresslevel=9) as handle:
        for _ in range(65):
            handle.write(b"0" * (1 << 20))


def listening(own: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(own)  # the name of a socket is short
        server.bind("d.jsonl")
        os.chdir(before)


CASES = [
    # ---- no file ----
    Case(f"{PREPARE}absent.jsonl", ("No such dataset.",)),
    Case("prepare RUN --set out={own}/out --set data.source=./pairs.json", ("Did you mean 'pairs.jsonl'?",)),
    Case(f"{PREPARE}d.jsonl", ("neither a file nor a folder",), make=lambda own: os.mkfifo(own / "d.jsonl")),
    Case(f"{PREPARE}d.jsonl", ("neither a file nor a folder",), make=listening),
    Case("prepare RUN --set out={own}/out --set data.source=/dev/zero", ("neither a file nor a folder",)),
    Case(f"{PREPARE}d", ("The folder has no data files.",), make=lambda own: (own / "d").mkdir()),
    Case(
        f"{PREPARE}d", ("has no data files",), make=lambda own: (own / "d").mkdir() or os.mkfifo(own / "d" / "x.jsonl")
    ),
    Case(f"{PREPARE}d", ("mixes file types",), {"d/a.jsonl": lines(ROW), "d/b.parquet": b""}),
    Case(
        f"{PREPARE}d --set data.split=nowhere", ("The folder has no split 'nowhere'.",), {"d/train.jsonl": lines(ROW)}
    ),
    Case("prepare RUN --set out={own}/out --set data.test_split=test", ("A file has no splits.",)),
    # ---- files that are not what their name says ----
    *(
        Case(f"{PREPARE}d.{suffix}", ("A data file cannot be read.", f"d.{suffix}"), {f"d.{suffix}": content})
        for suffix in ("parquet", "arrow", "jsonl.gz")
        for content in (b"\x00\x01nothing", b"PAR1" + b"\xff" * 100, b"ARROW1\x00\x00" + b"\xff" * 100)
    ),
    Case(f"{PREPARE}d.jsonl.gz", ("A data file cannot be read.",), {"d.jsonl.gz": gzip.compress(b"{}" * 999)[:-12]}),
    Case(f"{PREPARE}d.parquet", ("A data file cannot be read.",), {"d.parquet": b""}),
    Case(f"{PREPARE}d.json", ("A data file cannot be read.",), {"d.json": "[" * 100_000}),
    Case(f"{PREPARE}d.json", ("A data file cannot be read.",), {"d.json": f'[{{"prompt": {"9" * 5000}}}]'}),
    Case(f"{PREPARE}d.json", ("A data file cannot be read.",), {"d.json": b"[\xff]"}),
    Case(f"{PREPARE}d.parquet", ("two columns have the name 'chosen'",), make=twins),
    # ---- rows ----
    Case(f"{PREPARE}d.jsonl", ("The dataset has no row to read.", "it is empty"), {"d.jsonl": ""}),
    Case(f"{PREPARE}d.jsonl", ("The dataset has no row to read.", "it is empty"), {"d.jsonl": "\n\n \n"}),
    *(
        Case(f"{PREPARE}d.jsonl", ("The dataset has no row to read.", reason), {"d.jsonl": content})
        for content, reason in (
            ("nonsense\n", "invalid_json"),
            ("[1]\n5\nnull\n", "invalid_json"),
            ("[" * 100_000, "invalid_json"),
            ("9" * 5000, "invalid_json"),
            (b"\xff\xfe{\x00}\x00", "invalid_utf8"),
        )
    ),
    Case(f"{PREPARE}d.jsonl.gz", ("The dataset has no row to read.", "line_too_long"), make=endless),
    Case(f"{PREPARE}d.jsonl", ("columns",), {"d.jsonl": lines({"a": 1, "b": 2})}),
    Case(f"{PREPARE}d.jsonl --set data.format=labelled", ("lacks a column", "response_1"), {"d.jsonl": lines(ROW)}),
    Case(f"{PREPARE}d.jsonl --set data.columns={{prompt='qestion'}}", ("qestion",), {"d.jsonl": lines(ROW)}),
    Case(f"{PREPARE}d.jsonl --set data.columns={{nonsense='prompt'}}", ("nonsense",), {"d.jsonl": lines(ROW)}),
    *(
        Case(f"{PREPARE}d.jsonl", ("Not one row can be used", reason), {"d.jsonl": lines(row)})
        for row, reason in (
            ({**ROW, "chosen": "no"}, "sides_are_identical"),
            ({**ROW, "chosen": None}, "missing_value"),
            ({**ROW, "chosen": 5}, "wrong_type"),
            ({**ROW, "chosen": {"a": 1}}, "wrong_type"),
            ({**ROW, "chosen": " "}, "chosen_is_blank"),
            ('{"prompt": "\\ud800", "chosen": "yes", "rejected": "no"}', "invalid_utf8"),
            ({**ROW, "prompt": ""}, "prompt_has_no_tokens"),
            ({**ROW, "prompt": "p1 " * 99}, "prompt_fills_max_length"),
        )
    ),
    Case(
        f"{PREPARE}d.parquet",
        ("Not one row can be used", "wrong_type"),
        make=lambda own: parquet(
            own, prompt=pa.array([10**7], pa.int32()).view(pa.date32()), chosen=["a"], rejected=["b"]
        ),
    ),
    Case(
        f"{PREPARE}d.parquet",
        ("The dataset has no row to read.", "invalid_utf8"),
        make=lambda own: parquet(
            own,
            prompt=["p1"],
            chosen=pa.Array.from_buffers(
                pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
            ),
            rejected=["no"],
        ),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refused(refused, case):
    refused(case)
