"""Whether a safetensors file is whole: an interrupted download or copy is shorter than its header says.

Eight bytes with the length of the header, the header (JSON: the place of each tensor among the data), the data.
"""

from __future__ import annotations

import json
from pathlib import Path

from scoreonce.schemas.errors import InputError

LONGEST_HEADER = 100_000_000  # bytes, the limit of the format


def require_whole(path: Path) -> None:
    """Raise `InputError` where a safetensors file is empty, cut short, or has no readable header.

    Other files are left to their own format.
    """
    if path.suffix != ".safetensors":
        return
    size = path.stat().st_size
    try:
        wanted = _stated_size(path, size)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(path, f"{size:,} bytes, without a readable header ({error})") from None
    if size != wanted:
        raise _damaged(path, f"{size:,} bytes; its header says {wanted:,}")


def _stated_size(path: Path, size: int) -> int:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(size - 8, LONGEST_HEADER):
            raise ValueError(f"a header of {length:,} bytes")
        header = json.loads(file.read(length))
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return 8 + length + int(max(ends, default=0))


def _damaged(path: Path, found: str) -> InputError:
    return InputError(
        "A weight file is incomplete or damaged.",
        found=found,
        where=str(path),
        fix="Download or copy the file again: `hf download` goes on where it was interrupted.",
    )
