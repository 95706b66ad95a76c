"""A run with texts, prepared and scored."""

from collections.abc import Iterator

import pytest
from text_runs import scored_text_run

from scoreonce.stages.config import Run


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCOREONCE_CACHE", str(folder / "cache"))
        yield scored_text_run(folder)
