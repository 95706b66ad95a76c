"""CONTRIBUTING.md leads to functions that exist, and counts its own lists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WAYS = re.findall(r"^### (.+?)\n(.*?)(?=^##)", TEXT.partition("## The way of the data")[2], re.DOTALL | re.MULTILINE)[
    :3
]
NAMED = re.compile(r"`([\w/]+\.(?:py|jinja|js|html\.jinja))`(?:: ((?:`[\w.]+`(?:, )?)+))?")


@cache
def defined_in(path):
    """Names of the functions, classes, methods ("Class.method") and constants of a module."""
    names = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


def stations(way):
    """(file, functions) of each numbered step; a template and its script have no functions and count as one each."""
    steps = re.findall(r"^\d+\. (.*)$", way, re.MULTILINE)
    return [(path, re.findall(r"`([\w.]+)`", names)) for step in steps for path, names in NAMED.findall(step)]


def test_there_are_three_ways():
    assert [title.split(",")[0] for title, _ in WAYS] == ["`margin`", "A JSONL row", "β of ε-DPO"]


@pytest.mark.parametrize(("title", "way"), WAYS, ids=lambda text: text[:12] if len(text) < 80 else "")
def test_every_station_of_a_way_exists_and_is_counted(title, way):
    found = stations(way)
    for path, names in found:
        assert (ROOT / path).is_file(), f"{title}: no file {path}"
        assert set(names) <= (defined_in(path) if names else set()), f"{title}: {path} defines no such name"
    functions, files = sum(len(names) or 1 for _, names in found), len({path for path, _ in found})
    assert f"{functions} stations in {files} files." in way, f"{title}: {functions} stations in {files} files"


def test_where_to_find_leads_to_what_exists():
    table = TEXT.partition("## Where to find")[2].partition("\n## ")[0]
    found = [(path, re.findall(r"`([\w.]+)`", names)) for path, names in NAMED.findall(table) if "/" in path]
    assert len(found) >= 7
    for path, names in found:
        assert (ROOT / path).is_file(), path
        assert set(names) <= (defined_in(path) if names else set()), path
