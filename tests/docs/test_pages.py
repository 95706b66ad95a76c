"""README and docs: links lead somewhere, commands exist, and lists made from code are complete."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from scoreonce.pipeline.text.quarantine import REASONS
from scoreonce.stages import cli, config
from scoreonce.stages.commands.listing import LOCATED

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which names commands of other versions too
COMMANDS = typer.main.get_command(cli.app)


def text_of(page):
    return page.read_text(encoding="utf-8")


def shell_lines(text):
    """Lines of the shell blocks, without their comments."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text_of(page))
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page):
    text = text_of(page)
    lines = [line for line in shell_lines(text) if line.startswith("scoreonce ")]
    lines += re.findall(r"`(scoreonce [^`]+)`", text)
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        command = COMMANDS
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, f"{page.name}: {line}"
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= known, f"{page.name}: {line}"


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_run_files_and_parts_of_them_can_be_read(page):
    for block in re.findall(r"^ *```toml\n(.*?)^ *```", text_of(page), re.DOTALL | re.MULTILINE):
        tree = tomllib.loads(block)
        tree.setdefault("out", "runs/x")
        tree.setdefault("data", {}).setdefault("source", "x.jsonl")
        tree.setdefault("reference", {}).setdefault("model", "m")
        assert config.checked(tree, page.name).out == tree["out"]


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    lines = [line for line in shell_lines(text_of(page)) if line.startswith("make ")]
    named = {line.split()[1] for line in lines} | set(re.findall(r"`make ([a-z-]+)", text_of(page)))
    assert named <= targets


def test_every_store_command_is_documented():
    page = text_of(ROOT / "docs" / "cache.md")
    for name, command in COMMANDS.commands["store"].commands.items():
        assert f"scoreonce store {name} " in page
        for option in (option for parameter in command.params for option in parameter.opts):
            assert option in page or option in ("run", "--set", "--help"), f"store {name} {option}"


def test_every_quarantine_reason_is_documented():
    page = text_of(ROOT / "docs" / "formats.md")
    block = page.partition("<!-- reasons:")[2].partition("<!-- /reasons -->")[0]
    assert re.findall(r"^\| `(\w+)` \| (.*) \|$", block, re.MULTILINE) == list(REASONS.items())


def test_everything_that_can_be_located_is_documented():
    assert ", ".join(f"`{what}`" for what in LOCATED) in " ".join(text_of(ROOT / "docs" / "formats.md").split())


def test_readme_is_short_and_names_every_page():
    readme = text_of(ROOT / "README.md")
    assert len(readme.splitlines()) <= 160
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in readme] == []


def test_the_first_files_to_read_are_the_modules_that_the_readme_says():
    readme = text_of(ROOT / "README.md")
    shown, module = re.search(r"`(\S+\.py)` is\s+`scoreonce\.(\S+)`", readme).groups()
    assert shown == module.replace(".", "/") + ".py"
    assert (ROOT / shown).is_file()
