"""Fixtures that every test may use."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import shape_checks
from skip_summary import pytest_terminal_summary  # noqa: F401 - a hook

shape_checks.install()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, small real models and vectors; tests that want it skip without it."""
    folder = Path(os.environ.get("SCOREONCE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("needs the shared real data: set SCOREONCE_SHARED to its folder")
    return folder


class Browser:
    """Headless Chromium."""

    def __init__(self, program: str, profile: Path) -> None:
        self.options = (
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--virtual-time-budget=10000",
            f"--user-data-dir={profile}",
        )

    def dom(self, page: Path, *options: str) -> str:
        """The page's elements after its script has run."""
        return self._run(*options, "--dump-dom", page.as_uri())

    def screenshot(self, page: Path, to: Path, *, width: int, height: int) -> None:
        """A picture (PNG) of the top of the page."""
        self._run(f"--window-size={width},{height}", f"--screenshot={to}", page.as_uri())

    def _run(self, *options: str) -> str:
        done = subprocess.run([*self.options, *options], capture_output=True, text=True, check=True, timeout=120)
        return done.stdout


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    """Skips where there is no Chromium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium")
    return Browser(program, tmp_path / "profile")


@pytest.fixture(scope="session")
def benchmark_module() -> Callable[[str], ModuleType]:
    """Loads a module of benchmarks/ by its name."""
    return _benchmark_module


@pytest.fixture(scope="session")
def planted() -> ModuleType:
    """benchmarks/planted.py: generated pairs with flaws of known number."""
    return _benchmark_module("planted")


def _benchmark_module(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def forgets_methods() -> Iterator[None]:
    """Whatever method a test's file registers is gone after it."""
    from scoreonce.pipeline.methods import METHODS, catalogue  # torch, which most tests do without
    from scoreonce.pipeline.methods.catalogue import ALIASES
    from scoreonce.pipeline.methods.pieces.registry import PIECES
    from scoreonce.stages.common import method_file  # torch, which most tests do without

    tables: list[dict[str, Any]] = [*PIECES.values(), METHODS, ALIASES, catalogue.ROWS, method_file._LOADED]
    saved = [dict(table) for table in tables]
    yield
    for table, contents in zip(tables, saved, strict=True):
        table.clear()
        table.update(contents)
