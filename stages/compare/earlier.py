"""Trainings with other settings that are there under the labels of a comparison, from before its run file changed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common import manifests
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.compare.trials import quiet
from scoreonce.stages.config import Run


def replaced(trials: Iterable[Run], *, restart: bool, allow_method_file: bool = False) -> frozenset[str]:
    """The labels whose trainings are of other settings, pairs or scores, and are trained again.

    A comparison never ranks what was trained with settings of before beside what was not: without `restart` this
    raises `InputError`, before anything is trained.
    """
    from scoreonce.stages.train import stage as train

    found: dict[str, list[manifests.Difference]] = {}
    for trial in trials:
        with quiet(), suppress(InputError):  # what cannot be trained is said, by its training, as the others are ranked
            if changed := train.other_run(trial, allow_method_file=allow_method_file):
                found[RunPaths.of(trial).label] = changed
    if found and not restart:
        label, changed = next(iter(found.items()))
        more = f", and {len(found) - 1:,} more" if len(found) > 1 else ""
        raise InputError(
            "Trainings with other settings have their outputs under the labels of this comparison.",
            found=f"{label}: {manifests.listed(changed, 'trained')}{more}",
            where="compare",
            fix="Train them again with --restart, which deletes them, or undo the change. To keep both, vary the "
            "setting, or give this comparison an `out` of its own and the same score.store.",
        )
    return frozenset(found)
