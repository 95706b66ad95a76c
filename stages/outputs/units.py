"""Results that are published as a whole, and the files of each.

A unit is what one command writes: the pairs, the reference columns, the audit, one training run, one evaluation, or a
file beside them (report.html). All names are relative to `out`, with slashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.names import require_name

_SAMPLED = ("samples", "judge", "graded")
KINDS = ("pairs", "reference", "audit", "train", "evaluate", "compare", "export", *_SAMPLED, "report.html", "demo.json")
LABELLED = ("train", "evaluate", "export", *_SAMPLED)  # of which there is a unit for each label, trainer or name
MARKERS = {"pairs": "manifest.json", "reference": "manifest.json", "audit": "audit.json", "evaluate": "summary.json"}
MARKERS |= {"compare": "compare.json", "export": "manifest.json"}
MARKERS |= {"samples": "manifest.json", "judge": "manifest.json", "graded": "manifest.json"}
MARKERS["train"] = "lineage.json"  # without which nothing of a training run is used
# What says which results were made of the pairs that are there.
MARKERS_OF_RESULTS = tuple(
    f"{kind}/*/{MARKERS[kind]}" if kind in LABELLED else f"{kind}/{MARKERS[kind]}"
    for kind in ("reference", "train", "evaluate", "export", "compare")
)
# What a training run writes again and again; each has a checksum in itself or beside it.
GROWING = ("lineage.json", "run.toml", "metrics.jsonl", "metrics.crc32", "held_out.jsonl", "held_out.crc32")
LOG = "log.json"  # without it a log is read all the same, so one that is older or newer than the index is left out
TRACKERS = "trackers"  # logs for other programs: published, and never read here
_VOUCHING = ("manifest.json", "scoreonce.json", "summary.json", "measures.json", "audit.json", "compare.json")
# What of training runs is read by other stages: what they are of and what they logged.
LOGS = tuple(
    f"train/*/{each}" for each in ("lineage.json", "run.toml", "log.json", "metrics.*", "held_out.*", "steps*")
)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")


def unit_of(name: str) -> str:
    """The unit that a file belongs to."""
    first, _, rest = name.partition("/")
    return f"{first}/{rest.partition('/')[0]}" if first in LABELLED else first


def is_unit(unit: str) -> bool:
    """Whether a name that stands at an address is that of a unit."""
    kind, slash, label = unit.partition("/")
    if kind not in KINDS or (kind in LABELLED) != bool(slash):
        return False
    try:
        return not slash or bool(require_name(label, "an address"))
    except InputError:
        return False


def marker_of(unit: str) -> str:
    """The file without which nothing of a unit counts."""
    kind = unit.partition("/")[0]
    return f"{unit}/{MARKERS[kind]}" if kind in MARKERS else unit


def is_safe(name: str, unit: str) -> bool:
    """Whether a name that stands at an address is that of a file of this unit, and of nothing outside of it."""
    parts = name.split("/")
    hidden = any(not part or part.startswith(".") for part in parts)
    return not hidden and not _UNSAFE.search(name) and (name == unit or name.startswith(f"{unit}/"))


def grows(name: str) -> bool:
    """Whether a file is written again and again while its unit is in use, and so has no digest in the index."""
    kind, _, rest = name.partition("/")
    inner = rest.partition("/")[2]
    return kind == "train" and (inner in GROWING or inner.startswith(f"{TRACKERS}/"))


def is_replaced(name: str) -> bool:
    """Whether a file is written over another of its name while readers use the unit."""
    return grows(name) or (name.startswith("train/") and name.partition("/")[2].partition("/")[2] == LOG)


def is_of_checkpoint(name: str) -> bool:
    """Whether a file is part of a checkpoint."""
    parts = PurePosixPath(name).parts
    return len(parts) > 3 and parts[0] == "train" and parts[2] == "checkpoints"


def vouches(name: str) -> bool:
    """Whether a file says what the other files of its folder have to be."""
    return name.rpartition("/")[2] in _VOUCHING


def in_order(names: Iterable[str]) -> list[list[str]]:
    """Names in groups, each to be written after the one before it: what makes others valid is last."""
    groups: list[list[str]] = [[], [], []]
    for name in sorted(names):
        groups[2 if vouches(name) else 1 if is_replaced(name) else 0].append(name)
    return [group for group in groups if group]


def wanted(name: str, patterns: Sequence[str]) -> bool:
    """Whether a file is asked for by one of some patterns, such as "train/*/steps*"."""
    tracked = grows(name) and f"/{TRACKERS}/" in name
    return not tracked and any(fnmatchcase(name, pattern) for pattern in patterns)


def files_in(out: Path, unit: str) -> dict[str, Path]:
    """The files of a unit in a folder by name, without unfinished and hidden ones and links."""
    path = out / unit
    if path.is_file() and not path.is_symlink():
        return {unit: path}
    found = (each for each in path.rglob("*") if each.is_file() and not each.is_symlink()) if path.is_dir() else ()
    names = {each.relative_to(out).as_posix(): each for each in found}
    return {name: each for name, each in sorted(names.items()) if is_safe(name, unit)}
