"""docs/methods.md and the table are made from the code."""

import json
from dataclasses import replace
from pathlib import Path

from scoreonce.pipeline import methods
from scoreonce.pipeline.methods import METHODS, REFUSED
from scoreonce.pipeline.methods.pieces.registry import PIECES
from scoreonce.stages.commands import method_docs as docs

PAGE = Path(__file__).resolve().parents[3] / "docs" / "methods.md"


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == docs.markdown(), (
        "run: python -m scoreonce.stages.commands.method_docs > docs/methods.md"
    )


def test_a_piece_of_another_program_is_not_on_the_page(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def elsewhere() -> None: ...

    piece = next(iter(PIECES["calibration"].values()))
    monkeypatch.setitem(PIECES["calibration"], "elsewhere", replace(piece, name="elsewhere", function=elsewhere))
    assert "elsewhere" not in docs.markdown()


def test_the_page_has_every_method_and_every_refusal() -> None:
    page = docs.markdown()
    for name in METHODS:
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert "```text\n" in section, name
        assert f"arXiv {methods.METHODS[name].paper.arxiv}" in section, name  # type: ignore[union-attr]
        assert all(f"| `{setting}` |" in section for setting in METHODS[name].hyperparameters), name
    assert all(reason in page for _, reason in REFUSED.values())


def test_table_cells_escape_their_bars() -> None:
    """Every row of a table has as many unescaped bars as the row above."""
    lines = docs.markdown().splitlines()
    for above, line in zip(lines, lines[1:], strict=False):
        if above.startswith("|") and line.startswith("|"):
            assert above.replace("\\|", "").count("|") == line.replace("\\|", "").count("|"), line


def test_the_table_says_how_to_call_each_method() -> None:
    table = methods.table()
    assert json.loads(json.dumps(table)) == table
    for row in table:
        method = methods.resolve(row["name"], row["hyperparameters"])
        assert method.hyperparameters == row["hyperparameters"]
        assert set(row["differentiable"]) <= set(row["reads"])
        assert set(row["meanings"]) == set(row["hyperparameters"])
        for alias, settings in row["aliases"].items():
            given = methods.resolve(alias, {}).hyperparameters
            assert given == {**row["hyperparameters"], **settings}
        assert set(row["synonyms"].values()) <= set(row["hyperparameters"])
    assert next(row for row in table if row["name"] == "epsilon_dpo")["state"] == {"epsilon_beta": 0.01}
