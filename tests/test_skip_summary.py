"""A run says how many tests it skipped and what they needed."""

import os
import subprocess
import sys
from pathlib import Path

HELPERS = Path(__file__).resolve().parent / "helpers"
TESTS = """
import pytest

@pytest.mark.skipif(True, reason="needs a GPU")
@pytest.mark.parametrize("number", range(3))
def test_marked(number): ...

def test_inside():
    pytest.skip("needs Chromium")

def test_passes(): ...
"""


def test_skips_are_counted_by_reason(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "skip_summary", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(HELPERS)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = [line.strip() for line in done.stdout.splitlines() if " skipped: " in line]
    assert skipped == ["3 skipped: needs a GPU", "1 skipped: needs Chromium"]
