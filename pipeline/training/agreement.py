"""Whether all processes are about to do the same, compared before the first step.

Processes that read different folders would otherwise mix their batches and write a model of none of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from scoreonce.schemas.errors import InputError

WIDTH = 64  # bytes that are gathered of each fact: its JSON where that is no longer, else its SHA-256 in hex


def require_agreement(plan: Mapping[str, Any], gather: Callable[[Tensor], Tensor]) -> None:
    """Raise `InputError`, on every process, where a fact of `plan` is another on one of them.

    `plan` has the same names on all processes. `gather` takes `(1, facts, WIDTH)` uint8 and returns those of all
    processes, `(processes, facts, WIDTH)`.
    """
    own = [list(_text(fact).ljust(WIDTH).encode()) for fact in plan.values()]
    table = gather(torch.tensor([own], dtype=torch.uint8)).cpu()
    found = [_differing(name, table[:, number]) for number, name in enumerate(plan)]
    if differing := [line for line in found if line]:
        raise InputError(
            "The processes are not about to do the same.",
            found="\n         ".join(differing),
            where="the processes of this launch",
            fix="Give all of them the same run file and one `out` that they share, or bring each one's `out` to the "
            "same state.",
        )


def _text(fact: Any) -> str:
    text = json.dumps(fact, sort_keys=True)
    return text if len(text) <= WIDTH else hashlib.sha256(text.encode()).hexdigest()


def _differing(name: str, rows: Tensor) -> str | None:
    """`steps done: 4 on process 0, 0 on process 1`, each value with the first process that has it; or None."""
    first: dict[str, int] = {}
    for process, row in enumerate(rows.tolist()):
        first.setdefault(bytes(row).decode().rstrip(), process)
    if len(first) == 1:
        return None
    return f"{name}: " + ", ".join(f"{_short(text)} on process {process}" for text, process in first.items())


def _short(text: str) -> str:
    return f"{text[:16]}…" if len(text) == WIDTH else text
