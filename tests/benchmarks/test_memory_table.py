"""docs/scale.md has the memory by model size that the code works out."""

import memory_table
import pytest

PAGE = memory_table.PAGE.read_text(encoding="utf-8")


def test_the_table_has_its_head():
    made = PAGE.partition(memory_table.BEGIN)[2].partition(memory_table.END)[0].splitlines()
    assert made[:2] == memory_table.HEAD
    assert len(made) == 2 + 3 * len(memory_table.SHAPES)


@pytest.mark.parametrize(
    "shape",
    [
        memory_table.SHAPES[0],
        *(pytest.param(shape, marks=pytest.mark.long) for shape in memory_table.SHAPES[1:]),
    ],
    ids=lambda shape: shape.name,
)
def test_memory_by_model_size_is_what_the_code_works_out(shape):
    pytest.importorskip("peft")
    assert list(memory_table.lines(shape)) == [
        line for line in PAGE.splitlines() if line.startswith(f"| {shape.name} ")
    ]


def test_shapes_have_as_many_weights_as_the_models_that_they_are_named_after():
    """As published: 1.24, 3.21, 8.03, 14.8, 32.8 and 70.6 billion."""
    counts = [sum(p.numel() for p in shape.model().parameters()) / 1e9 for shape in memory_table.SHAPES]
    assert counts == pytest.approx([1.24, 3.21, 8.03, 14.8, 32.8, 70.6], rel=0.005)
