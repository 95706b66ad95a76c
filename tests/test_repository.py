"""What surrounds the code: workflows, hooks and templates are valid and name what exists."""

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from scoreonce.stages import cli

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def loaded(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def version(text):
    return tuple(map(int, text.split(".")))


def test_the_workflow_runs_ci_on_the_oldest_and_the_newest_python():
    job = loaded(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]
    supported = [line.rpartition(":: ")[2] for line in PROJECT["classifiers"] if ":: Python :: 3." in line]
    oldest, newest = supported[0], supported[-1]
    assert sorted(supported, key=version) == supported
    assert job["strategy"]["matrix"]["python"] == [oldest, newest]
    assert PROJECT["requires-python"] == f">={oldest}"
    scripts = {step["run"]: step.get("if") for step in job["steps"] if "run" in step}
    assert scripts == {".ci/run": None, "make test-slow": "github.event_name == 'schedule'"}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_ci_sets_up_and_tests():
    targets = re.findall(r"^make (\S+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets == ["setup", "test"]


def test_hooks_are_what_make_test_runs():
    """ruff check, ruff format and mypy: as hooks and as the commands of the targets check and types."""
    hooks = [hook for repo in loaded(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert [hook["id"] for hook in hooks] == ["ruff-check", "ruff-format", "mypy"]
    assert {hook["language"] for hook in hooks} == {"system"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^test(?:-fast)?: (\w+)", makefile, re.MULTILINE) == ["check", "check"]
    assert "\t$(BIN)/ruff check .\n\t$(BIN)/ruff format --check .\n" in makefile
    assert [hook["entry"] for hook in hooks] == [
        ".venv/bin/ruff check --force-exclude",
        ".venv/bin/ruff format --force-exclude",
        "make types",
    ]
    assert "types: $(READY) .types/scoreonce ## types alone\n\t$(BIN)/mypy\n" in makefile


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_issue_templates_are_forms_that_ask_for_the_environment(path):
    form = loaded(path)
    assert {"name", "description", "body"} <= form.keys()
    fields = {field["id"]: field for field in form["body"]}
    assert len(fields) == len(form["body"])
    assert all(field["type"] == "textarea" and field["attributes"]["label"] for field in fields.values())
    asked = fields["doctor"]["attributes"]["description"]
    assert "`scoreonce doctor RUN.toml`" in asked
    assert "`scoreonce --version`" in asked


def test_templates_are_there():
    assert [path.stem for path in TEMPLATES] == ["bug", "feature"]
    assert (ROOT / ".github" / "pull_request_template.md").is_file()


def test_the_changelog_has_this_version(capsys):
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\d\S+?),? ", changelog, re.MULTILINE)[1] == PROJECT["version"]
    assert cli.run_command(["--version"]) == 0
    assert capsys.readouterr().out.split()[-1] == PROJECT["version"]
