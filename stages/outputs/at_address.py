"""The seam between stages and addresses: `@at_address(...)` on a stage fetches before it and publishes after it.

    <cache>/runs/<name>-<digest>/<name>/        the local copy, which stages know as `out`
    <cache>/runs/<name>-<digest>/synced/        what of it is as at the address (see record.py)
    <cache>/runs/<name>-<digest>/locks/         who on this machine writes which unit, and who fetches

The reference store of such a run is at `<out>/store`, and has its own way to the address (stages/store/mirror.py).
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import atomic
from scoreonce.stages.common.locking import exclusive, is_held
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.removal import watched
from scoreonce.stages.config import Run
from scoreonce.stages.outputs import index
from scoreonce.stages.outputs.lease import Lease
from scoreonce.stages.outputs.unit_copy import SupersededError, UnitCopy
from scoreonce.stages.outputs.units import KINDS, LABELLED, is_unit, marker_of, unit_of, wanted
from scoreonce.stages.remote.folder import RemoteFolder

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
Written = Callable[..., str]  # of the run and the stage's own arguments: the unit that it writes

PATIENCE = 10.0  # seconds for which another process that fetches is waited for without a word
_open: dict[Path, Outputs] = {}  # by the local copy, while a stage is at work there


def at_address(
    *reads: str, writes: str | Written | None = None, together: bool = False
) -> Callable[[Callable[Concatenate[Run, P], R]], Callable[Concatenate[Run, P], R]]:
    """Let a stage work on the local copy of `out`, where that is an address; nothing where it is a folder.

    `reads`: patterns of what it reads, "pairs/*"; `writes`: the unit that it writes, of which it reads everything.
    "{label}" is the label of the run. One process writes a unit at a time, on this machine and, by a lease, on all;
    with `together` only while it publishes, so that parts of one job can be at work at the same time.

    What the stage leaves unfinished, by an error or Ctrl-C, is not published.
    """

    def around(stage: Callable[Concatenate[Run, P], R]) -> Callable[Concatenate[Run, P], R]:
        @wraps(stage)
        def called(run: Run, *arguments: P.args, **options: P.kwargs) -> R:
            paths = RunPaths.of(run)
            if paths.address is None or paths.out in _open:
                return stage(run, *arguments, **options)
            unit = writes(run, *arguments, **options) if callable(writes) else writes
            named = [each.format(label=paths.label) for each in (*reads, unit or "")]
            outputs = Outputs(paths, named[:-1], named[-1] or None, _launch(run), together=together)
            # Of a training run that is begun anew nothing is needed; pairs may turn out to be up to date.
            anew = bool(options.get("restart")) and outputs.writes_training
            with outputs.used(_timeout(options), anew=anew):
                result = stage(run, *arguments, **options)
                outputs.finish(_timeout(options))
            return result

        return called

    return around


def publish(paths: RunPaths) -> None:
    """Publish what a stage has finished so far, a checkpoint say; nothing where `out` is a folder.

    Every process of a launch calls it; the first publishes, and the others wait. A failure is logged, because the next
    time tries again. Raises `InputError` where another machine has taken over.
    """
    outputs = _open.get(paths.out)
    if outputs is None:
        return
    try:
        outputs.publish_so_far()
    except SupersededError:
        raise
    except InputError as error:
        logger.warning(
            f"not published yet: {error.what} {error.found} ({error.where}). It is kept in {paths.out}, and the next "
            "checkpoint, or the end, tries again."
        )


def require_one_machine(paths: RunPaths, what: str) -> None:
    """Raise `InputError` where a launch over several machines would write parts of one file into each one's copy."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    own = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    if paths.address is not None and own < count:
        raise InputError(
            f"Several machines cannot write {what} to an address together.",
            found=f"{count} processes, {own} of them on this machine",
            where=f"out = {paths.address!r}",
            fix="Set `out` to a folder that all machines see, or start the processes on one machine.",
        )


class Outputs:
    """The files of a run at an address while one stage is at work: what it reads, and the unit that it writes."""

    def __init__(
        self, paths: RunPaths, reads: Sequence[str], written: str | None, launch: Launch, *, together: bool
    ) -> None:
        assert paths.address is not None
        self._launch = launch
        self._paths, self._reads, self._written, self._together = paths, reads, written, together
        self._folder = paths.out.parent
        self._remote = RemoteFolder.open(paths.address)
        self._units: dict[str, UnitCopy] = {}
        self._lease: Lease | None = None

    @property
    def writes_training(self) -> bool:
        """Whether the stage writes a training run."""
        return self._written is not None and self._written.startswith("train/")

    @contextmanager
    def used(self, timeout: float | None, *, anew: bool) -> Iterator[None]:
        """Everything that the stage reads is in the copy in this block, and the unit that it writes is its own."""
        main, first_here = self._launch.main, int(os.environ.get("LOCAL_RANK", "0")) == 0

        def bring() -> None:
            self._settle()
            self._fetch(anew=anew)
            if self._written is not None and self._unit(self._written).record.index is None:
                self._unit(self._written).require_free()  # before the work, not after it

        with ExitStack() as held:
            if main:
                logger.info(f"out is {self._paths.address}; its local copy is {self._paths.out}")
                if self._written is not None and not self._together:
                    self._lease = held.enter_context(self._writing(self._written, timeout))
            self._launch.do(bring if main else None)
            # The first of another machine, which may have a copy of its own.
            self._launch.do(partial(self._fetch, anew=anew) if first_here and not main else None)
            if main:
                held.enter_context(watched(self._removes))
            _open[self._paths.out] = self
            held.callback(_open.pop, self._paths.out)
            yield

    @contextmanager
    def _writing(self, unit: str, timeout: float | None) -> Iterator[Lease]:
        """This process alone writes a unit, here and at the address."""
        what = f"{unit} at {self._paths.address}"
        with (
            exclusive(self._lock(unit), what, timeout=timeout, patience=PATIENCE),
            Lease(self._remote, unit, self._copy_name()).held(what, timeout=timeout) as lease,
        ):
            yield lease

    def _publish(self, unit: str, timeout: float | None) -> None:
        """Publish a unit that is not held for the whole stage."""
        with self._writing(unit, timeout) as lease:
            self._unit(unit).publish(lease.require_held)

    def _settle(self) -> None:
        """Publish what an earlier command could not, unless somebody is at it or has published something else since."""
        for unit in self._of_copy():
            if self._is_own(unit) or is_held(self._lock(unit)) or not self._unit(unit).is_unpublished():
                continue
            try:
                self._publish(unit, 0.0)
            except SupersededError:
                continue  # it is fetched, if the stage reads it
            except InputError as error:
                logger.warning(f"not published yet: {unit}: {error.what} {error.found} ({error.where}) {error.fix}")

    def _fetch(self, *, anew: bool) -> None:
        patterns = list(self._reads)
        if self._written is not None and not anew:
            patterns.append(f"{self._written}*" if "." in self._written else f"{self._written}/*")
        with self._fetching():
            for unit in self._asked():
                # A unit that another process here writes is newer than what is at the address.
                if self._is_own(unit) or not is_held(self._lock(unit)):
                    self._unit(unit).fetch(partial(wanted, patterns=[marker_of(unit), *patterns]))

    def _is_own(self, unit: str) -> bool:
        """Whether this stage holds a unit from its beginning to its end."""
        return unit == self._written and self._lease is not None

    def _fetching(self) -> AbstractContextManager[None]:
        return exclusive(self._lock("fetch"), f"the copy of {self._paths.address}", patience=PATIENCE)

    def _asked(self) -> list[str]:
        """The units of which the stage reads or writes something."""
        asked: set[str] = set() if self._written is None else {self._written}
        there: set[str] | None = None
        for pattern in self._reads:
            unit = unit_of(pattern)
            if not unit.endswith("/*"):
                asked.add(unit)
                continue
            if there is None:
                there = {*index.published_units(self._remote), *self._of_copy()}
            asked |= {each for each in there if each.startswith(unit[:-1])}
        return sorted(asked)

    def _of_copy(self) -> list[str]:
        """The units of which there is something in the copy, or was."""
        found = {path.relative_to(self._paths.out).as_posix() for kind in KINDS for path in self._in_copy(kind)}
        records = self._folder / "synced"
        found |= {path.relative_to(records).as_posix().removesuffix(".json") for path in records.rglob("[!.]*.json")}
        return sorted(unit for unit in found if is_unit(unit))

    def _in_copy(self, kind: str) -> list[Path]:
        path = self._paths.out / kind
        return (list(path.glob("[!.]*")) if kind in LABELLED else [path]) if path.exists() else []

    def _removes(self, path: Path) -> None:
        """Write down what the stage is about to remove."""
        out = self._paths.out.resolve()
        if not path.is_relative_to(out) or not is_unit(unit := unit_of(name := path.relative_to(out).as_posix())):
            return
        if unit == self._written:
            self._unit(unit).removes(name)
        else:
            with self._fetching():
                self._unit(unit).removes(name)

    def publish_so_far(self) -> None:
        """Publish the unit that the stage writes, if it holds it. For every process of a launch."""
        self._launch.do(self._publish_written if self._launch.main else None)

    def finish(self, timeout: float | None) -> None:
        """Publish what the stage has done. For every process of a launch."""
        self._launch.do(partial(self._finish, timeout) if self._launch.main else None)

    def _publish_written(self) -> None:
        if self._written is not None and self._lease is not None:
            self._unit(self._written).publish(self._lease.require_held)

    def _finish(self, timeout: float | None) -> None:
        """First what the stage has removed of other units, then what it has written."""
        for unit in self._of_copy():
            if unit != self._written and self._unit(unit).record.removed:
                self._publish(unit, timeout)
        if self._lease is not None:
            self._publish_written()
        elif self._written is not None and self._unit(self._written).is_unpublished():
            self._publish(self._written, timeout)

    def _unit(self, unit: str) -> UnitCopy:
        if unit not in self._units:
            self._units[unit] = UnitCopy(unit, self._paths.out, self._folder / "synced", self._remote)
        return self._units[unit]

    def _lock(self, unit: str) -> Path:
        path = self._folder / "locks" / f"{unit.replace('/', '-')}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _copy_name(self) -> str:
        """A name of this copy alone, by which an earlier command on it is known."""
        path = self._folder / "locks" / "name"
        if not path.exists():
            with atomic(path) as temporary:
                temporary.write_text(secrets.token_hex(8))
        return path.read_text()


def _timeout(options: Any) -> float | None:
    return options.get("lock_timeout")


@dataclass(frozen=True)
class Launch:
    """The processes of this command. `do` does some work, of those that have some, and lets all wait for its end."""

    main: bool
    do: Callable[[Callable[[], None] | None], None]


def _launch(run: Run) -> Launch:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Launch(True, lambda work: work() if work else None)
    from scoreonce.stages.sharded.processes import joined, while_others_wait

    state = joined(run.compute)
    return Launch(state.is_main_process, lambda work: while_others_wait(work, state.device))
