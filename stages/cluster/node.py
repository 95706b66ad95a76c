"""What a process of Ray has to see as the command sees it: the folder, some files, the leave to run a model's code."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import sha256


@dataclass(frozen=True)
class Surroundings:
    """What is around a command. It crosses machines: plain values only."""

    folder: str  # in which the command was given; paths of a run file are relative to it
    files: dict[str, str]  # path and SHA-256 of what every node has to see alike
    trust_remote_code: bool

    @classmethod
    def here(cls, files: Iterable[Path]) -> Surroundings:
        """Those of this process, the command."""
        from scoreonce.stages.models import folders

        digests = {str(path): sha256(path) for path in files}
        return cls(str(Path.cwd()), digests, folders.trust_remote_code)

    def take(self) -> None:
        """Have them in this process, on another machine perhaps. Raises `InputError` where it sees other files."""
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise _other_files(self.folder, str(error)) from None
        for path, digest in self.files.items():
            if not Path(path).is_file():
                raise _other_files(path, "no such file")
            if sha256(Path(path)) != digest:
                raise _other_files(path, "a file with other contents")
        if self.trust_remote_code:
            from scoreonce.stages.models import folders

            folders.trust_remote_code = True


def _other_files(path: str, found: str) -> InputError:
    return InputError(
        "A node of the Ray cluster does not see the files of this run.",
        found=found,
        where=f"{path} on {socket.gethostname()}",
        fix="Put what the run file names (`out`, `score.store`, the model, a template) on a file system that all nodes "
        "mount under the same path, and start the command there.",
    )
