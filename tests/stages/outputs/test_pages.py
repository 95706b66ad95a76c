"""Pages that are written link to the others that are there, and the others to them."""

import pytest

from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.outputs.pages import write_page

EMPTY = '<nav id="pages" hidden></nav>'


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path, tmp_path / "store", "dpo")


def test_the_first_page_has_no_link_and_gets_one_with_the_second(paths):
    write_page(paths, paths.audit_page, EMPTY)
    assert paths.audit_page.read_text() == EMPTY
    write_page(paths, paths.report, EMPTY)
    assert 'href="audit/index.html"' in paths.report.read_text()
    assert 'href="../report.html"' in paths.audit_page.read_text()


def test_a_page_that_is_being_written_is_left_alone(paths):
    write_page(paths, paths.audit_page, EMPTY)
    with locked(paths, paths.audit, "the audit"):
        write_page(paths, paths.report, EMPTY)
    assert paths.audit_page.read_text() == EMPTY
    assert 'href="audit/index.html"' in paths.report.read_text()
