"""A run file as text: what it says is what TOML reads, and every line keeps its reason."""

import tomllib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from scoreonce.stages.config import Run
from scoreonce.stages.run_text import SECTIONS, WIDTH, Line, render, toml, tree

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


UNHURRIED = settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


@UNHURRIED
@given(VALUES)
def test_a_value_is_read_as_it_was(value):
    assert tomllib.loads(f"value = {toml(value)}")["value"] == value


@UNHURRIED
@given(st.lists(TEXT, max_size=3), TEXT, TEXT, st.booleans())
def test_no_reason_and_no_note_becomes_a_line(notes, why, value, off):
    """Names of columns and of keys are in them, and come from files of others."""
    lines = [Line("data.source", value, why), Line("data.limit", 1, why, off=off)]
    assert tomllib.loads(render(notes, lines, notes)) == tree(lines)


def test_rates_are_written_as_people_write_them():
    assert [toml(value) for value in (5e-7, 1e-06, 0.1, 1.0, 1.5e-10)] == ["5e-7", "1e-6", "0.1", "1.0", "1.5e-10"]


def test_lines_stand_in_their_sections_with_their_reasons():
    lines = [
        Line("train.beta", 0.1, "so"),
        Line("out", "runs/x", "folder"),
        Line("data.limit", 5, "few", off=True),
        Line("data.source", "d.jsonl", "long " * 40),
    ]
    text = render(["head"], lines, ["  an indented note " + "that goes on " * 12])
    assert (
        tomllib.loads(text) == tree(lines) == {"out": "runs/x", "data": {"source": "d.jsonl"}, "train": {"beta": 0.1}}
    )
    assert text.startswith('# head\n\nout = "runs/x"  # folder\n\n[data]\n# limit = 5  # few\n# long long')
    assert max(map(len, text.splitlines())) <= WIDTH
    assert '\nsource = "d.jsonl"\n' in text


def test_every_section_of_a_run_file_is_written():
    kinds = {name: field.annotation for name, field in Run.model_fields.items()}
    sections = {name for name, kind in kinds.items() if kind is not str and issubclass(kind, BaseModel)}
    assert set(SECTIONS) == sections | {"compare.vary"}  # a table of its own, with quoted keys
    written = render([], [Line(f"{name}.key", 1, "why") for name in SECTIONS]).splitlines()
    assert [line for line in written if line.startswith("[")] == [f"[{name}]" for name in SECTIONS]
