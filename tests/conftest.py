"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, small real models and vectors; tests that want it skip without it."""
    folder = Path(os.environ.get("SCOREONCE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("needs the shared real data: set SCOREONCE_SHARED to its folder")
    return folder
