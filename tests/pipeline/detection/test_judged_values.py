"""Counting the values of a preference over a whole dataset."""

from scoreonce.pipeline.detection.judged_values import MOST, JudgedValues
from scoreonce.pipeline.text.dataset_columns import Columns, Made
from scoreonce.pipeline.text.quarantine import RowError


def counted(values):
    made = Made(("label",), lambda row: row.get("label"))
    judged = JudgedValues(Columns({}, judged={"label": made}))
    judged.add([RowError("not_json", ""), *({"label": value} for value in values)])
    judged.add([{}])
    return list(judged.lines())


def test_every_readable_row_is_counted():
    assert counted(["A", "tie", "A"]) == ["'label' in all rows: A: 2, tie: 1, null: 1"]


def test_values_without_end_take_no_memory_without_end():
    """The first of them are told apart; the others, and the row without one, are counted together."""
    (line,) = counted(range(MOST + 10))
    assert line.startswith("'label' in all rows: any other: 11, 0: 1, ")
    assert line.endswith("and 993 other values")
