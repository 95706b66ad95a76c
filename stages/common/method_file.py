"""A method file: one Python file of the user's that registers methods with the decorators of pipeline.methods.

The only place that runs the code of a file; a judge's function comes through here too.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from scoreonce.pipeline.methods.catalogue import ALIASES, METHODS, ROWS, accepted
from scoreonce.pipeline.methods.pieces.registry import PIECES
from scoreonce.schemas.errors import InputError
from scoreonce.stages.config import Train

logger = logging.getLogger(__name__)

_LOADED: dict[str, list[str]] = {}  # module name -> methods that its file registered


def source_of(name: str, path: str) -> bytes:
    """The bytes of a Python file. Raises `OSError` or `ValueError` where it cannot be read."""
    return SourceFileLoader(name, path).get_data(path)


def execute(name: str, path: str, source: bytes) -> ModuleType:
    """Run the code of a file as a module of that name, and return it. Raises whatever the code raises.

    An import would leave bytecode beside the file.
    """
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # as an import would, for dataclasses and the like
    exec(compile(source, path, "exec"), module.__dict__)
    return module


def load_allowed(path: str, *, allowed: bool) -> list[str]:
    """`load_file` for a file that a run file names, which may come from someone else.

    Raises `InputError` where the caller has not allowed its code to run, and as `load_file` does.
    """
    if not allowed:
        raise InputError(
            "The run file names a Python file whose code would be run.",
            found=f"train.method_file = {path!r}",
            where="the run file, or --set",
            fix="Read that file. If you trust it: --allow-method-file, in Python train(run, allow_method_file=True).",
        )
    logger.warning("running the code of %s", path)
    return load_file(path)


def load_file(path: str) -> list[str]:
    """Run a Python file and return the names of the methods that it registers in `METHODS`.

    Executes the file's code. Loading a file again replaces what it registered before; a file that fails leaves nothing
    registered. Raises `InputError` if the file is missing, is not Python, raises an error, registers nothing, or uses a
    name that is taken, for a hyperparameter that of a key of [train].
    """
    name = "scoreonce_method_file_" + "".join(c if c.isalnum() else "_" for c in path)
    source = _source(name, path)
    with _rolled_back_on_error(name):
        _unregister(name)
        before = set(METHODS)
        _execute(name, path, source)
        added = [each for each in METHODS if each not in before]
        if not added:
            raise InputError(
                "The method file registers no method.",
                found="no call of method(...)",
                where=path,
                fix='End the file with method("my_name", "what it changes", paper=..., objective=...).',
            )
        _LOADED[name] = added
        for each in added:
            _require_own_names(each, path)
    return added


def _require_own_names(method: str, path: str) -> None:
    """Raise `InputError` where a hyperparameter has the name of a key of [train], which would never reach it."""
    taken = sorted(accepted(method) & Train.model_fields.keys())
    if taken:
        raise InputError(
            "A hyperparameter of the method file has the name of a key of [train].",
            found=", ".join(taken),
            where=f"{path}, method {method}",
            fix=f"Give it another name, such as {method}_{taken[0]}.",
        )


def _source(name: str, path: str) -> bytes:
    if not path.endswith(".py"):
        raise InputError(
            "The method file is not a Python file.", found=path, where="method_file", fix="Give the path of a .py file."
        )
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise OSError("it is no file")
        return source_of(name, path)
    except (OSError, ValueError) as error:
        raise InputError(
            "The method file cannot be read.",
            found=str(error),
            where=path,
            fix="Check `method_file`: a relative path is relative to the working directory.",
        ) from error


def _execute(name: str, path: str, source: bytes) -> None:
    try:
        execute(name, path, source)
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:  # sys.exit() too: a command that ends there would look finished
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) and not lines else lines[-1] if lines else "unknown"
        raise InputError(
            "The method file raised an error.",
            found=f"{type(error).__name__}: {error}",
            where=f"{path}, line {line}",
            fix="Correct the file.",
        ) from error


def _unregister(name: str) -> None:
    for pieces in PIECES.values():
        for key in [key for key, piece in pieces.items() if piece.function.__module__ == name]:
            del pieces[key]
    for method in _LOADED.pop(name, []):
        for alias in ROWS[method].aliases:
            del ALIASES[alias]
        del METHODS[method], ROWS[method]


@contextmanager
def _rolled_back_on_error(name: str) -> Iterator[None]:
    tables: list[dict[str, Any]] = [*PIECES.values(), METHODS, ROWS, ALIASES, _LOADED]
    saved = [dict(table) for table in tables]
    earlier = sys.modules.get(name)
    try:
        yield
    except BaseException:
        for table, contents in zip(tables, saved, strict=True):
            table.clear()
            table.update(contents)
        if earlier is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = earlier
        raise
