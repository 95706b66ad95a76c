"""Every benchmark runs at its tiny size, and writes nothing then."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NEEDS_DATA = ("hh", "full_vocabulary", "sweep")
NEEDS_TRL = ("peers", "sweep", "memory_peers")


def results():
    return {path.name: path.stat().st_mtime_ns for path in (BENCHMARKS / "results").iterdir()}


@pytest.mark.parametrize(
    "name",
    [
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in (
                "peers",
                "growth",
                "hh",
                "audit",
                "full_vocabulary",
                "hybrids",
                "sweep",
                "memory_peers",
                "gemm_share",
                "huge_pages",
            )
        ),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("columns", "store_index")),
    ],
)
def test_smoke(name, request):
    if name in NEEDS_DATA:
        request.getfixturevalue("shared")
    if name in NEEDS_TRL and importlib.util.find_spec("trl") is None:
        pytest.skip("needs TRL")
    before = results()
    done = subprocess.run([sys.executable, str(BENCHMARKS / f"{name}.py"), "--smoke"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| ---" in done.stdout or "|---" in done.stdout
    assert "Measured " in done.stdout
    assert results() == before
