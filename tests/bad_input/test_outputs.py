"""Stores, queries, and what audits and reports are asked for."""

import os

import pytest
from bad_input import Case

BLANK = "\N{NO-BREAK SPACE}"


def sql(query: str) -> str:
    return f"sql RUN {query.replace(' ', BLANK)}"


EMPTY = "--set out={own}/out"
NOTHING_YET = [
    Case(f"audit RUN {EMPTY}", ("The pairs are not prepared.", "scoreonce prepare")),
    Case(f"score RUN {EMPTY}", ("The pairs are not prepared.", "scoreonce prepare")),
    Case(f"train RUN {EMPTY}", ("The pairs are not prepared.", "scoreonce prepare")),
    Case(f"evaluate RUN {EMPTY}", ("scoreonce train",)),
    Case(f"report RUN {EMPTY}", ("scoreonce train",)),
    Case(f"{sql('SELECT 1')} {EMPTY}", ("The pairs are not prepared.",)),
    Case("store list RUN --set score.store={own}/run.toml", ("score.store is not a folder.",), {"run.toml": ""}),
    Case("path RUN raport", ("There is no such thing to locate.", "Did you mean 'report'?")),
    *(
        Case(f"{stage} RUN {EMPTY}", ("manifest.json", "scoreonce prepare"), {"out/pairs/manifest.json": content})
        for stage in ("audit", "score", "train")
        for content in ("", "nonsense", "[]", "5", "{}", "[" * 50_000, b"\xff", "9" * 5000)
    ),
]
PREPARED = [
    Case("audit RUN --fail-on nothing", ("nothing",)),
    Case("audit RUN --fail-on duplicate_pair>x", ("duplicate_pair>x",)),
    Case("audit RUN --fail-on duplicate_pair>-1", ("duplicate_pair>-1",)),
    Case("audit RUN --fail-on duplicate_pair>nan", ("duplicate_pair>nan",)),
    Case("audit RUN --fail-on >1", (">1",)),
    Case("audit RUN --contamination {own}/absent.txt", ("no such file of evaluation prompts",)),
    Case("audit RUN --contamination {own}", ("no such file of evaluation prompts",)),
    Case("audit RUN --contamination {own}/pipe", ("no such file",), make=lambda own: os.mkfifo(own / "pipe")),
    Case("audit RUN --contamination {own}/e.txt", ("is not UTF-8",), {"e.txt": b"\xff"}),
    Case("audit RUN --contamination {own}/e.txt", ("has no text",), {"e.txt": "\n \n"}),
    Case("audit RUN --contamination {own}/e.jsonl", ("has no text",), {"e.jsonl": "[" * 50_000}),
    Case("audit RUN --contamination {own}/e.parquet", ("cannot be read",), {"e.parquet": "nonsense"}),
    Case("audit RUN --contamination {own}/e.xyz", ("cannot be read",), {"e.xyz": "text"}),
    Case("audit RUN --set audit.votes=absent", ("no column 'absent'",)),
    Case("audit RUN --set audit.methods=['dppo']", ("dppo",)),
    Case("audit RUN --set data.limit=3", ("prepared from other data or settings", "limit")),
    Case("score RUN --set data.max_length=31", ("prepared from other data or settings", "max_length")),
    Case("train RUN --set data.seed=5", ("prepared from other data or settings", "seed")),
    Case("report RUN --label absent", ("There is nothing to report on.",)),
    Case(sql("SELECT * FROM read_csv('/etc/passwd')"), ("The SQL reads a file.", "read_csv")),
    Case(sql("SELECT * FROM \"READ_PARQUET\"('x')"), ("The SQL reads a file.",)),
    Case(sql("SELECT nothing FROM pairs"), ("The query cannot be answered.", "pairs: ")),
    Case(sql("SELECT * FROM nothing"), ("The query cannot be answered.",)),
    Case(sql("SELECT"), ("The query cannot be answered.",)),
    Case(sql("DROP"), ("The query cannot be answered.",)),
    Case(sql("SELECT " + "(" * 3000), ("The query cannot be answered.",)),
    Case("store gc RUN --drop nothing", ("nothing",)),
    Case("store gc RUN --drop ../../x", ("../../x",)),
]


@pytest.mark.parametrize("case", NOTHING_YET, ids=str)
def test_refused_where_nothing_is_made_yet(refused, case):
    refused(case)


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("case", PREPARED, ids=str)
def test_refused_after_prepare(refused, case):
    refused(case)
