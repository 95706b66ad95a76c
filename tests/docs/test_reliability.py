"""docs/reliability.md shows the results on disk."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["torture", "kills", "full_disk", "adverse", "memory"])
def test_reliability_shows_the_results_on_disk(name):
    results = (ROOT / "benchmarks" / "results" / f"{name}.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    table = [line for line in results.splitlines() if line.startswith("|")]
    assert len(table) > 3
    assert "\n".join(table) in page
    assert results[results.index("Measured") :].partition("\n")[0] in page
