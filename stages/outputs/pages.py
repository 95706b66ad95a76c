"""Writing the pages of a run, each with links to the others that are there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from scoreonce.pipeline.pages.links import PAGES, with_links
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import atomic
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import RunPaths


def write_page(paths: RunPaths, path: Path, html: str) -> None:
    """Write a page, whose lock is held, and let the run's other pages link to it.

    A page that another process is writing is left alone: it links to what is there when it is written. So is one of a
    run at an address, where it is part of another result.
    """
    _write(path, with_links(html, _name(paths, path), _there(paths)))
    if paths.address is not None:
        return
    pages = {paths.report: paths.report, paths.audit_page: paths.audit, paths.comparison_page: paths.comparison}
    for other, written in pages.items():
        if other != path and other.is_file():
            with suppress(InputError, OSError, ValueError), locked(paths, written, f"the page {other}", timeout=0):
                before = other.read_text(encoding="utf-8")
                if (after := with_links(before, _name(paths, other), _there(paths))) != before:
                    _write(other, after)


def _write(path: Path, html: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _name(paths: RunPaths, path: Path) -> str:
    return path.relative_to(paths.out).as_posix()


def _there(paths: RunPaths) -> set[str]:
    return {name for name in PAGES if (paths.out / name).is_file()}
