"""The wheel: it builds, holds every file of the packages, and works in a fresh environment, outside the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("schemas", "pipeline", "stages")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
IMPORT_ALL = """
import importlib, sys
from pathlib import Path

for name in sys.argv[2:]:
    found = Path(importlib.import_module(name).__file__)
    assert found.is_relative_to(sys.argv[1]), f"{name} comes from {found}"
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, because setuptools leaves a build folder beside the source, and takes what is in it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(build, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment: the wheel, and links to the packages that it depends on. Nothing is downloaded."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("__", "scoreonce")):
            (packages / path.name).symlink_to(path)
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    done = subprocess.run(
        [*install, "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run_outside(installed, folder, program, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [installed / "bin" / program, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_wheel(path):
    """Where a file of the repository stands in the wheel: stages/api is scoreonce itself."""
    return f"scoreonce/{path.relative_to(ROOT).as_posix()}".replace("scoreonce/stages/api/", "scoreonce/")


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel):
    files = {path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()}
    expected = {in_wheel(path) for path in files if "__pycache__" not in path.parts}
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == expected
    assert "scoreonce/py.typed" in found
    assert {Path(name).suffix for name in found} >= {".jinja", ".css", ".js"}


def test_the_commands_work_outside_the_repository(installed, tmp_path):
    assert run_outside(installed, tmp_path, "scoreonce", "--version") == f"scoreonce {VERSION}\n"
    assert "beta_dpo" in run_outside(installed, tmp_path, "scoreonce", "methods")
    assert "Usage: scoreonce report" in run_outside(installed, tmp_path, "scoreonce", "report", "--help")


def test_every_module_imports_from_the_installed_package(wheel, installed, tmp_path):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")]
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names]
    assert "scoreonce.stages.cli" in modules
    run_outside(installed, tmp_path, "python", "-c", IMPORT_ALL, str(installed), *modules)
