"""What other stages made of the pairs in a run's folder, and that new pairs would leave behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import Lineage, Settings
from scoreonce.stages.common import manifests
from scoreonce.stages.common.locking import exclusive
from scoreonce.stages.common.manifests import Difference
from scoreonce.stages.common.paths import RunPaths


@dataclass(frozen=True)
class MadeOfPairs:
    """Folders with what was made of the pairs that are there."""

    reference: list[Path] = field(default_factory=list)  # one or none
    runs: list[Path] = field(default_factory=list)
    evaluations: list[Path] = field(default_factory=list)
    exports: list[Path] = field(default_factory=list)
    comparison: list[Path] = field(default_factory=list)  # one or none

    @classmethod
    def of(cls, paths: RunPaths) -> MadeOfPairs:
        """What is in the folder of a run."""
        return cls(
            _filled(paths.reference_manifest.parent),
            _folders_in(paths.training.parent),
            _folders_in(paths.evaluation.parent),
            _folders_in(paths.exports),
            _filled(paths.comparison),
        )

    @property
    def folders(self) -> list[Path]:
        """All of them."""
        return [*self.reference, *self._locked]

    @property
    def _locked(self) -> list[Path]:
        """Those with a lock of their own: reference scores are under that of the pairs."""
        return [*self.runs, *self.evaluations, *self.exports, *self.comparison]

    def __str__(self) -> str:
        kinds = {"training run": self.runs, "evaluation": self.evaluations, "export": self.exports}
        named = [
            f"the {kind}{'s' if len(folders) > 1 else ''} {', '.join(folder.name for folder in folders)}"
            for kind, folders in kinds.items()
            if folders
        ]
        compared = [f"the comparison in {folder}" for folder in self.comparison]
        return "; ".join([*(f"the reference scores in {folder}" for folder in self.reference), *named, *compared])

    def differences(self, settings: Settings) -> list[Difference]:
        """In which settings the pairs that were trained on differ from these: for pairs that have lost their manifest.

        Settings that only one side has are of another version, and are not compared.
        """
        lineages = (manifests.readable(Lineage, run / "lineage.json") for run in self.runs)
        then = next((lineage.data.config for lineage in lineages if lineage and lineage.data.config), {})
        names = then.keys() & settings.keys()
        return manifests.differences(
            "data", *({name: side[name] for name in sorted(names)} for side in (then, settings))
        )

    def require_restart(self, paths: RunPaths, changed: Sequence[Difference]) -> None:
        """Raise `InputError`, which says what would be lost, where there is anything."""
        if self.folders:
            raise InputError(
                "Results were made of the pairs that are there, and would be lost with them.",
                found=f"{manifests.listed(changed, 'prepared')}\n         made of these pairs: {self}",
                where=str(paths.out),
                fix="Set another `out` to keep them, or undo the change. To delete them, run `scoreonce prepare` with "
                f"the same run file and --set, and --restart; the reference store {paths.store_name} stays.",
            )

    @contextmanager
    def unused(self, paths: RunPaths, timeout: float | None) -> Iterator[None]:
        """No other process writes to them in this block."""
        with ExitStack() as held:
            for folder in self._locked:
                held.enter_context(exclusive(paths.lock(folder), f"the folder {folder}", timeout=timeout))
            yield


def _filled(folder: Path) -> list[Path]:
    return [folder] if folder.is_dir() and any(folder.iterdir()) else []


def _folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*") if path.is_dir())
