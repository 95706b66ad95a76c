"""Whose formats are written, and whose are not, with the reason."""

from __future__ import annotations

from typing import Literal, get_args

from scoreonce.schemas.errors import InputError, did_you_mean

Target = Literal["trl", "fairseq2", "jsonl"]
TARGETS: tuple[Target, ...] = get_args(Target)
# Read in the sources of the releases that docs/exchange.md names.
LEFT_OUT = {
    "nemo-rl": "NeMo RL reads no reference log-probs from data: its loop runs the reference on every batch",
    "megatron-bridge": "Megatron Bridge has no release that reads them. The format that is proposed for it adds the "
    "log-probs of the header of the answer's turn to the sum, which are the prompt's here",
}


def target_of(name: str) -> Target:
    """The target of that name. Raises `InputError` for one that is left out, with the reason, or not known."""
    if name in TARGETS:
        return name
    raise InputError(
        "The reference cannot be exported for this trainer." if name in LEFT_OUT else "There is no such target.",
        found=LEFT_OUT.get(name) or f"{name!r}.{did_you_mean(name, [*TARGETS, *LEFT_OUT])}",
        where=f"--to {name}",
        fix=f"Use one of: {', '.join(TARGETS)}. jsonl has the sums, and with --tokens the log-probs of each token.",
    )
