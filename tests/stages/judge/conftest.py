"""A run with samples of two labels, and judges of it."""

from typing import Any

import pytest
from judged_samples import OTHER, OWN
from sample_tables import sample_rows, write_samples

from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run


@pytest.fixture
def judged(tmp_path) -> Any:
    """A function that makes the run of a judge; labels `dpo` and `reference` have samples."""

    def run(**judge: Any) -> Run:
        made = Run.model_validate(
            {
                "out": str(tmp_path / "out"),
                "data": {"source": "none"},
                "reference": {"model": "none"},
                "compute": {"device": "cpu"},
                "judge": judge,
            }
        )
        paths = RunPaths.of(made)
        if not paths.samples("dpo").exists():
            write_samples(paths, "dpo", sample_rows(OWN))
            write_samples(paths, "reference", sample_rows(OTHER))
        return made

    return run
