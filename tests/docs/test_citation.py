"""CITATION.cff says what the package says, in the keys of the Citation File Format 1.2.0."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
# https://github.com/citation-file-format/citation-file-format/blob/1.2.0/schema.json, at the top level.
REQUIRED = {"authors", "cff-version", "message", "title"}
KNOWN = REQUIRED | {"abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license"}
KNOWN |= {"license-url", "preferred-citation", "references", "repository", "repository-artifact", "repository-code"}
KNOWN |= {"type", "url", "version"}


def cited():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def package():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_it_has_the_keys_of_the_format():
    found = cited()
    assert REQUIRED <= set(found) <= KNOWN
    assert found["cff-version"] == "1.2.0"
    assert found["type"] == "software"
    assert [set(author) for author in found["authors"]] == [{"name"}]  # an entity; a person has family-names


def test_it_agrees_with_the_package():
    found, stated = cited(), package()
    assert all(found[key] == stated[key] for key in ("version", "license", "keywords"))
    assert found["title"] == stated["name"]


def test_its_date_is_that_of_the_changelog():
    """`## 0.2.0, 2026-12-01`; a version that is not released yet has no date in either file."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = re.search(rf"^## {re.escape(package()['version'])}(?:, (\S+))?$", changes, re.MULTILINE)
    assert heading is not None
    date = cited().get("date-released")
    assert heading[1] == ("unreleased" if date is None else str(date))
