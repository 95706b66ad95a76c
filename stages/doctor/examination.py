"""Look at the machine and at a run, and say what is wrong."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scoreonce.stages.common.paths import RunPaths, cache_folder
from scoreonce.stages.config import Run
from scoreonce.stages.doctor import attention, hardware_checks, machine, software_checks
from scoreonce.stages.doctor.facts import VARIABLES, Facts
from scoreonce.stages.doctor.finding import Finding
from scoreonce.stages.doctor.packages import installed, installed_packages
from scoreonce.stages.doctor.stores import stores_of
from scoreonce.stages.doctor.wanted import wanted

ORDER = ("error", "warning", "note")


@dataclass(frozen=True)
class Examination:
    """What was found. `findings` has errors first."""

    scoreonce: str  # version
    facts: Facts
    attention: tuple[attention.Path, ...]
    findings: tuple[Finding, ...]

    @property
    def stops(self) -> bool:
        """Whether something would stop a stage."""
        return any(finding.level == "error" for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """The same as plain data; sizes in bytes."""
        return _plain(asdict(self))


def examine(run: Run | None = None) -> Examination:
    """Examine this machine, and with a run its folders, its stores and what it asks for.

    Loads no model and uses no network. Raises `InputError` where `out` or `score.store` can be no folder.
    """
    facts = look(run)
    return Examination(installed("scoreonce") or "?", facts, tuple(attention.paths(facts)), tuple(findings(facts)))


def look(run: Run | None) -> Facts:
    """The facts."""
    torch, error = machine.torch_facts()
    paths = None if run is None else RunPaths.of(run)
    return Facts(
        python=platform.python_version(),
        platform=platform.platform(),
        packages=installed_packages(),
        torch=torch,
        torch_error=error,
        gpus=machine.gpus(torch),
        cpu=machine.cpu(),
        compiler=machine.compiler(),
        memory=machine.memory(),
        disks=tuple(machine.disk(role, path) for role, path in _folders(paths).items()),
        stores=None if paths is None else stores_of(paths),
        wanted=None if run is None else wanted(run),
        environment={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def findings(facts: Facts) -> list[Finding]:
    """What all checks say of some facts, the gravest first."""
    checks = (*software_checks.CHECKS, *hardware_checks.CHECKS)
    return sorted((finding for check in checks for finding in check(facts)), key=lambda each: ORDER.index(each.level))


def _folders(paths: RunPaths | None) -> dict[str, Path]:
    """Where things are kept, by what is kept there. A store within `out` is on its disk."""
    if paths is None:
        return {"cache": cache_folder()}
    store = {} if paths.store.is_relative_to(paths.out) else {"store": paths.store}
    return {"out": paths.out, **store, "cache": cache_folder()}


def _plain(value: Any) -> Any:
    """A tree that JSON has."""
    match value:
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case frozenset():
            return sorted(value)
    return value
