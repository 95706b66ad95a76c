"""A method of your own: one Python file that registers it with the decorators used in this folder."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scoreonce.pipeline.errors import InputError
from scoreonce.pipeline.methods.catalogue import ALIASES, METHODS, ROWS
from scoreonce.pipeline.methods.registry import PIECES

_LOADED: dict[str, list[str]] = {}  # module name: what its file registered


def load_file(path: str) -> list[str]:
    """Run a Python file and return the names of the methods that it registers; they are in `METHODS` from then on.

    This executes the file's code. A file that is loaded again replaces what it registered before; one that fails
    leaves nothing behind. Raises `InputError` for a file that is not there, is no Python, raises, registers nothing,
    or takes a name that exists.
    """
    name = "scoreonce_method_file_" + "".join(c if c.isalnum() else "_" for c in str(path))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not str(path).endswith(".py"):
        raise InputError("The method file is not a Python file.", found=str(path), where="method_file",
                         fix="Give the path of a .py file.")
    module = importlib.util.module_from_spec(spec)
    with _undone_on_failure(name):
        _forget(name)
        before = set(METHODS)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError("The method file cannot be read.", found=str(error), where=str(path),
                             fix="Check `method_file`: a relative path starts at the working directory.") from error
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            line = error.lineno if isinstance(error, SyntaxError) else last.lineno
            raise InputError("The method file raised an error.", found=f"{type(error).__name__}: {error}",
                             where=f"{path}, line {line}", fix="Correct the file.") from error
        added = [each for each in METHODS if each not in before]
        if not added:
            raise InputError("The method file registers no method.", found="no call of method(...)", where=str(path),
                             fix='End it with method("my_name", "what it changes", paper=..., objective=...).')
        _LOADED[name] = added
    return added


def _forget(name: str) -> None:
    for pieces in PIECES.values():
        for key in [key for key, piece in pieces.items() if piece.function.__module__ == name]:
            del pieces[key]
    for method in _LOADED.pop(name, []):
        for alias in ROWS[method].aliases:
            del ALIASES[alias]
        del METHODS[method], ROWS[method]


@contextmanager
def _undone_on_failure(name: str) -> Iterator[None]:
    tables: list[dict[str, Any]] = [*PIECES.values(), METHODS, ROWS, ALIASES, _LOADED]
    saved = [dict(table) for table in tables]
    earlier = sys.modules.get(name)
    try:
        yield
    except BaseException:
        for table, contents in zip(tables, saved, strict=True):
            table.clear()
            table.update(contents)
        sys.modules.pop(name, None)
        if earlier is not None:
            sys.modules[name] = earlier
        raise
