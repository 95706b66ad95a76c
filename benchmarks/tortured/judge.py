"""One damaged file, and what its readers make of it."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common import digests
from scoreonce.stages.train.stage import train
from tortured import readers, world
from tortured.kinds import Kind

# What a reader did, from the best to the worst.
UNCHANGED = "same numbers"  # the damage is in no number, or was put right without a word being needed
MENDED = "same numbers, said"
NAMED = "named"
SAID = "other numbers, said"  # where that is right: the user's own file is another one, or a column is left out
WRONG = "wrong numbers, said"
MISNAMED = "error without the file"
SILENT = "other numbers, silent"
TRACEBACK = "traceback"
OUTCOMES = (UNCHANGED, MENDED, NAMED, SAID, MISNAMED, WRONG, SILENT, TRACEBACK)
FAULTS = (MISNAMED, WRONG, SILENT, TRACEBACK)


@dataclass(frozen=True)
class Damage:
    """A bit of a file that is flipped, or the length that it is cut to (`bit` None)."""

    path: Path  # in the folder of the run
    at: int
    bit: int | None

    @classmethod
    def drawn(cls, paths: list[Path], cut: bool, draw: random.Random) -> Damage:
        path = draw.choice([path for path in paths if path.stat().st_size])
        return cls(path, draw.randrange(path.stat().st_size), None if cut else draw.randrange(8))

    def apply(self, folder: Path) -> None:
        """Damage the file and keep its date, as a disk does."""
        path = folder / self.path
        before, contents = path.stat(), bytearray(path.read_bytes())
        if self.bit is None:
            del contents[self.at :]
        else:
            contents[self.at] ^= 1 << self.bit
        path.write_bytes(contents)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def __str__(self) -> str:
        return f"{self.path} {f'cut to {self.at:,} bytes' if self.bit is None else f'byte {self.at:,} bit {self.bit}'}"


@dataclass
class Verdict:
    """What became of one damage: the worst outcome over the readers, and whether the named command mends it."""

    damage: Damage
    outcome: str = UNCHANGED
    reader: str = ""
    detail: str = ""
    mended: bool | None = None

    def add(self, outcome: str, reader: str, detail: str = "") -> None:
        if OUTCOMES.index(outcome) > OUTCOMES.index(self.outcome):
            self.outcome, self.reader, self.detail = outcome, reader, detail


class Judge:
    """Damages copies of one run, and compares what the readers return with what they return of a sound copy."""

    def __init__(self, sound: Path, scratch: Path) -> None:
        self.sound, self.folder = sound, scratch / "copy"
        self._expected: dict[tuple[str, bool], dict[str, str]] = {}

    def verdict(self, kind: Kind, damage: Damage, *, mend: bool) -> Verdict:
        """Run the readers on a copy with the damage. With `mend`, do what the errors say, and read again."""
        expected = self.expected(kind)
        self._copy()
        damage.apply(self.folder)
        found, said = Verdict(damage), False
        errors: list[tuple[readers.Reader, InputError]] = []
        with world.working_in(self.folder):
            for reader in kind.readers:
                outcome, detail, error = _read(reader, expected[reader.__name__], damage.path)
                if outcome == SILENT and said and kind.own:
                    outcome = SAID  # by the reader before it: the data or the model are others since
                if outcome == SAID and not (kind.own or kind.left_out):
                    outcome = WRONG
                said = said or outcome in (SAID, NAMED)
                found.add(outcome, reader.__name__, detail)
                if error is not None:
                    errors.append((reader, error))
        if mend and errors and not kind.own and found.outcome not in FAULTS:
            after = self.expected(kind, resumed=True)
            self._copy()
            damage.apply(self.folder)
            with world.working_in(self.folder):
                for reader, error in errors:
                    # A command that mends the unfinished run also goes on with it.
                    wanted = {expected[reader.__name__], after[reader.__name__]}
                    found.mended = found.mended is not False and _mended(reader, error, wanted)
        return found

    def expected(self, kind: Kind, *, resumed: bool = False) -> dict[str, str]:
        """What the readers of a kind return of a sound copy, or of one whose unfinished run has been resumed."""
        key = kind.name, resumed
        if key not in self._expected:
            self._copy()
            with world.working_in(self.folder):
                _as_a_new_process()
                if resumed:
                    readers.resumed()
                self._expected[key] = {}
                for reader in kind.readers:
                    _as_a_new_process()
                    self._expected[key][reader.__name__] = reader()
        return self._expected[key]

    def _copy(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.sound, self.folder)


def _read(reader: readers.Reader, expected: str, damaged: Path) -> tuple[str, str, InputError | None]:
    _as_a_new_process()
    with _Listening() as said:
        try:
            same = reader() == expected
        except InputError as error:
            names = {damaged.name, damaged.parent.name, damaged.stem}
            return (NAMED if any(name in str(error) for name in names) else MISNAMED), str(error), error
        except (Exception, SystemExit):
            return TRACEBACK, traceback.format_exc(), None
    if same:
        return (MENDED if said else UNCHANGED), "; ".join(said), None
    return (SAID if said else SILENT), "; ".join(said), None


def _mended(reader: readers.Reader, error: InputError, wanted: set[str]) -> bool:
    """Whether the commands that the errors name lead to a run of which the reader returns what it should."""
    for _ in range(4):
        if not _do(error.fix):
            return False
        _as_a_new_process()
        try:
            return reader() in wanted
        except InputError as next_error:
            error = next_error
    return False


def _do(fix: str) -> bool:
    """Do what the last part of an error says."""
    commands: dict[str, tuple[Callable[[], object], ...]] = {
        "prepare": (readers.prepared,),
        "score": (readers.scored,),
        "evaluate": (readers.evaluated,),
        "audit": (readers.audited,),
        "train": (readers.finished, readers.resumed),
        "merge": (readers.merged,),
        "sample": (readers.sampled,),
        "judge": (readers.judged,),
        "pairs": (readers.graded,),
        "compare": (readers.compared,),
        "export-reference": (readers.exported,),
        "demo": (lambda: world.write_demo(),),
    }
    command = re.search(r"`scoreonce ([\w-]+)", fix)
    if command is None:
        return False
    for position, action in enumerate(commands[command[1]]):
        _as_a_new_process()
        try:
            if "--restart" in fix:
                train(world.run_file(train__label=("dpo", "half")[position]), restart=True)
            else:
                action()
        except InputError as error:
            if error.fix == fix or not _do(error.fix):
                return False
    return True


def _as_a_new_process() -> None:
    digests._read.clear()
    digests.rehash = True


class _Listening(logging.Handler):
    """Collects what stages say of damage or of work done again."""

    WORDS = re.compile(r"damaged|Passed over|\w+ again|set aside|left out|earlier version", re.IGNORECASE)

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno > logging.INFO or self.WORDS.search(text):
            self.said.append(text)

    def __enter__(self) -> list[str]:
        logger = logging.getLogger("scoreonce")
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        return self.said

    def __exit__(self, *error: object) -> None:
        logging.getLogger("scoreonce").removeHandler(self)
