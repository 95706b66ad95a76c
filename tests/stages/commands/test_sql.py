"""`scoreonce sql`: tables of the run, and nothing else."""

import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages.commands import sql


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path, world):
    world.folder = tmp_path / "a[b]*c{d}?"
    world.prepare(world.random_pairs(6), world.random_pairs(2, seed=1))
    assert "8" in sql.answer(world.run(), "SELECT count(*) FROM pairs")


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("SELECT * FROM read_csv('/etc/passwd')", "The SQL reads a file."),
        ("SELECT nothing FROM pairs", "The query cannot be answered."),
        ("", "The query cannot be answered."),
        ("SELECT 1; SELECT 2", "The query cannot be answered."),
        ("SELECT " + "(" * 5000, "The query cannot be answered."),
        ("SELECT * FROM nowhere", "The query cannot be answered."),
        ("SELECT sum(prompt) + 'x' FROM pairs", "The query cannot be answered."),
        ("DELETE FROM pairs WHERE", "The query cannot be answered."),
    ],
)
def test_queries_without_an_answer(world, query, what):
    world.prepare(world.random_pairs(3), world.random_pairs(2, seed=1))
    with pytest.raises(InputError) as raised:
        sql.answer(world.run(), query)
    assert raised.value.what == what
