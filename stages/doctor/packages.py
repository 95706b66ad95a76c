"""The packages that scoreonce names in its own metadata, and which versions of them are installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from scoreonce.stages.doctor.facts import Package

# Extras for those who use scoreonce. The others are for its tests.
EXTRAS = ("peft", "quantization", "ray", "s3", "gcs", "trackers")


def installed_packages() -> tuple[Package, ...]:
    """What this installation of scoreonce requires, as found."""
    return tuple(found(requires("scoreonce") or (), installed))


def installed(name: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def found(lines: Iterable[str], installed: Callable[[str], str | None]) -> Iterator[Package]:
    """Each requirement, such as `torch>=2.12` or `peft>=0.18; extra == "peft"`, with the version that is installed.

    Requirements for other platforms and of extras that are not in `EXTRAS` are left out.
    """
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        extra = next((name for name in ("", *EXTRAS) if marker is None or marker.evaluate({"extra": name})), None)
        if extra is None or requirement.name == "scoreonce":  # which names its own extras
            continue
        there = installed(requirement.name)
        fits = there is not None and requirement.specifier.contains(there, prereleases=True)
        yield Package(requirement.name, str(requirement.specifier), there, fits, extra)
