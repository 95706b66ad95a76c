"""What transformers and PEFT say of the weights that they loaded: all of them, or an error.

Both fill a missing tensor with random numbers and leave out one that the model has no place for. Neither counts what
is tied to another weight, or computed from the config, as rotary frequencies and position ids are.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from scoreonce.schemas.errors import InputError

SHOWN = 3


@contextmanager
def unlogged() -> Iterator[None]:
    """Keep the table of weights that transformers logs from the terminal: `require_whole` says it, as an error.

    It is kept where weights could not be converted, of which the exception says only that the table has them.
    """
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_report)


def _is_no_report(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return "LOAD REPORT" not in message or "CONVERSION" in message


def require_whole(
    where: str,
    *,
    missing: Collection[str],
    unexpected: Collection[str],
    mismatched: Collection[tuple[str, Any, Any]] = (),
    config: str = "config.json",
) -> None:
    """Raise `InputError`, which names weights, where a model is not exactly what its files hold.

    `mismatched` has name, shape in the file and shape in the model.
    """
    shapes = [
        f"{name} ({_shape(stored)} in the file, {_shape(made)} in the model)" for name, stored, made in mismatched
    ]
    parts = {"not in the files": missing, "not in the model": unexpected, "of another shape": shapes}
    if found := [f"{words}: {_listed(names)}" for words, names in parts.items() if names]:
        raise InputError(
            f"The weights are not those that {config} describes.",
            found="\n         ".join(found),
            where=where,
            fix=f"Download or save the folder again, or correct {config}: layers, sizes, tied weights.",
        )


def _listed(names: Collection[str]) -> str:
    first, more = sorted(names)[:SHOWN], len(names) - SHOWN
    return ", ".join([*first, *([f"and {more:,} more"] if more > 0 else [])])


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape)) or "one number"
