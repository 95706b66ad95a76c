"""What the command line says of a comparison, as settings of the run file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from scoreonce.stages import run_file
from scoreonce.stages.config import Run, Train

# A comma that is in no list, table or text.
_COMMA = re.compile(r""",(?=(?:[^"'\[\]{}]|"[^"]*"|'[^']*'|\[[^\[\]]*\]|\{[^{}]*\})*$)""")


def varied(sets: Sequence[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Overrides with one value as they are, and those to be compared, by key: `train.beta=0.05,0.1`.

    One value is compared too where it is a method's own: a hyperparameter, which goes to each method that has it, or a
    setting for one method, `simpo.train.beta=2`. Raises `InputError` for a value that cannot be read.
    """
    fixed, vary = [], {}
    for text in sets:
        key, separator, value = text.partition("=")
        values = _COMMA.split(value) if separator else []
        if len(values) > 1 or (values and _of_methods(key.strip())):
            vary[key.strip()] = [run_file.value_of(each.strip(), key.strip()) for each in values]
        else:
            fixed.append(text)
    return fixed, vary


def _of_methods(key: str) -> bool:
    section, _, name = key.rpartition(".")
    return section.endswith(".train") or (section == "train" and name not in Train.model_fields)


def settings_of(run: Run, vary: Mapping[str, list[Any]], given: Mapping[str, Any]) -> Run:
    """The run with [compare] as the options say; `given` are its other keys, None where not given.

    Raises `InputError` for values out of range.
    """
    named = given.get("methods")
    methods = None if named is None else [name.strip() for each in named for name in each.split(",") if name.strip()]
    settings = {**given, "methods": methods, "vary": {**run.compare.vary, **vary} if vary else None}
    return run.replace({f"compare.{key}": value for key, value in settings.items() if value is not None})
