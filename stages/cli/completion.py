"""What a shell offers when Tab is pressed: the candidates for an argument that has begun.

Nothing here imports more than the standard library: every press waits for it.
"""

from __future__ import annotations

from pathlib import Path

NO_RUN_FILE = "pyproject.toml"


def run_files(incomplete: str) -> list[str]:
    """TOML files whose paths begin so: in the folder that is named, and in the folders there that begin so.

    Where there is none the shell offers its own: any file or folder.
    """
    folder, _, beginning = incomplete.rpartition("/")
    root = f"{folder}/" if "/" in incomplete else ""
    try:
        entries = sorted(Path(root or ".").iterdir())
    except OSError:
        return []
    there = [entry for entry in entries if entry.name.startswith(beginning) and _is_seen(entry.name, beginning)]
    files = [f"{root}{entry.name}" for entry in there if _is_run_file(entry)]
    inside = [f"{root}{entry.name}/{name}" for entry in there if entry.is_dir() for name in _run_files_in(entry)]
    return [*files, *inside]


def _run_files_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if _is_seen(entry.name) and _is_run_file(entry))
    except OSError:
        return []


def _is_run_file(path: Path) -> bool:
    return path.suffix == ".toml" and path.name != NO_RUN_FILE and path.is_file()


def _is_seen(name: str, beginning: str = "") -> bool:
    """Hidden files and folders are offered only to who began with a dot."""
    return not name.startswith(".") or beginning.startswith(".")
