"""SQL that would read a file."""

import polars as pl
import pytest

from scoreonce.pipeline.audit.checks.pair_filter import condition, kept
from scoreonce.pipeline.audit.checks.sql_reads import refuse_files
from scoreonce.schemas.errors import InputError

READS = [
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM \"read_csv\"('{file}')",
    "SELECT * FROM `read_csv`('{file}')",
    "SELECT * FROM READ_CSV/**/('{file}')",
    "SELECT * FROM read_csv -- '\n('{file}')",
    "SELECT * FROM t, read_parquet('{file}')",
    "WITH r AS (SELECT * FROM read_ipc('{file}')) SELECT * FROM r",
    "SELECT a FROM t WHERE a IN (SELECT x FROM read_json('{file}'))",
    "SELECT '\\', a FROM read_csv('{file}') WHERE a <> ''",
    "SELECT $$'$$ FROM read_csv('{file}') WHERE a <> $$'$$",
    "SELECT \"'\" FROM read_csv('{file}') WHERE \"'\" = 1",
]


@pytest.mark.parametrize("query", READS)
def test_table_functions_are_refused(query):
    with pytest.raises(InputError) as raised:
        refuse_files(query.format(file="secret.csv"), "scoreonce sql")
    assert raised.value.what == "The SQL reads a file."
    assert raised.value.found.lower().startswith("read_")


def test_a_condition_of_the_run_file_reads_no_file(tmp_path):
    file = tmp_path / "secret.csv"
    file.write_text("x\n1\n")
    with pytest.raises(InputError, match="reads a file"):
        condition(f"a IN (SELECT x FROM read_csv('{file}'))", ["a"])


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM pairs WHERE chosen LIKE '%pd.read_csv(%'",
        "SELECT avg(ref_margin) FROM pairs WHERE source = 'it''s read_me' GROUP BY source",
        'SELECT "chosen-model" FROM pairs',
    ],
)
def test_texts_may_name_such_functions(query):
    refuse_files(query, "scoreonce sql")  # raises nothing


def test_a_condition_may_name_them_in_its_texts():
    expression, reads = condition("chosen NOT LIKE '%pd.read_csv(%'", ["chosen"])
    assert reads == ["chosen"]
    pairs = pl.DataFrame({"chosen": ["pd.read_csv(x)", "no"]}).lazy()
    assert kept(pairs, expression, "it").tolist() == [1]
