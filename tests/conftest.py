"""Fixtures that every test may use."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, small real models and vectors; tests that want it skip without it."""
    folder = Path(os.environ.get("SCOREONCE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("needs the shared real data: set SCOREONCE_SHARED to its folder")
    return folder


@pytest.fixture(scope="session")
def planted() -> ModuleType:
    """benchmarks/planted.py: generated pairs with flaws of known number."""
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "planted.py"
    spec = importlib.util.spec_from_file_location("planted", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["planted"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
