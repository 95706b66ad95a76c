"""docs/migration.md: its tables are made from the data that translate, and its example is what a translation gives."""

import re
import tomllib
from pathlib import Path

import yaml

from scoreonce.stages.migration import document, trl
from scoreonce.stages.migration.mapped import Given
from scoreonce.stages.run_text import tree

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_code():
    """Otherwise: python -m scoreonce.stages.migration.document"""
    for name, table in document.tables().items():
        assert f"<!-- {name} -->\n{table}\n<!-- /{name} -->" in PAGE
    assert document.with_tables(PAGE) == PAGE


def test_before_and_after():
    before = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    after = tomllib.loads(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])
    found = trl.translate(Given("TRL", "x", before), model=None, data=None, out="runs/x", processes=8)
    assert tree(found.lines) == after
