"""A Python function of the user's as the judge.

    def score(prompt, completion): ...            a number, higher is better
    def prefer(prompt, first, second): ...        1 the first is better, 0 the second, 0.5 a tie

`prompt` is a list of messages for a conversation, else text. None means that there is no answer.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.method_file import execute, source_of
from scoreonce.stages.judge.questions import Completion, Match, Settings

Function = Callable[..., Any]
MODULE = "scoreonce_judge"  # the name of a file's module


class ScoringFunction:
    """A function of prompt and completion."""

    kind: Literal["scores"] = "scores"

    def __init__(self, name: str, function: Function) -> None:
        self._name, self._function = name, function

    def settings(self) -> Settings:
        """Its name, and a digest of its file."""
        return _settings(self._name, self._function)

    def scores(self, completions: Sequence[Completion]) -> list[float | None]:
        """What it gives each. Raises `InputError` where it raises an error or gives something else than a number."""
        return [
            _number(_call(self._name, self._function, _prompt(each), each.text), self._name, -math.inf, math.inf)
            for each in completions
        ]


class ComparingFunction:
    """A function of prompt and two completions."""

    kind: Literal["preferences"] = "preferences"

    def __init__(self, name: str, function: Function) -> None:
        self._name, self._function = name, function
        self.failures: Counter[str] = Counter()  # none that asking again would answer

    def settings(self) -> Settings:
        """Its name, and a digest of its file."""
        return _settings(self._name, self._function)

    def preferences(self, matches: Sequence[Match]) -> list[float | None]:
        """What it says of each. Raises `InputError` as `ScoringFunction.scores`, and for a number outside of [0, 1]."""
        return [
            _number(_call(self._name, self._function, _prompt(m.first), m.first.text, m.second.text), self._name, 0, 1)
            for m in matches
        ]


def load_allowed(name: str, *, allowed: bool) -> ScoringFunction | ComparingFunction:
    """The judge of judge.function, `file.py:name` or `module:name`; runs its module.

    Raises `InputError` where the caller has not allowed that, where there is no such function, and where it takes
    neither two nor three arguments.
    """
    if not allowed:
        raise InputError(
            "The run file names a Python function whose code would be run.",
            found=f"judge.function = {name!r}",
            where="the run file, or --set",
            fix="Read it. If you trust it: --allow-judge-function, in Python judge(run, allow_judge_function=True).",
        )
    place, _, attribute = name.rpartition(":")
    if not place or not attribute.isidentifier():
        raise _unusable(name, "no name of a function after a colon")
    module = _module(name, place)
    function = vars(module).get(attribute)
    if not callable(function):
        raise _unusable(name, f"no function {attribute} in {place}")
    match _positional(function):
        case 2:
            return ScoringFunction(name, function)
        case 3:
            return ComparingFunction(name, function)
        case count:
            raise _unusable(name, f"{attribute} takes {count} positional arguments")


def _module(name: str, place: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        return execute(MODULE, place, source_of(MODULE, place))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() too: a command that ends there would look finished
        raise _unusable(name, f"{type(error).__name__}: {error}") from error


def _positional(function: Function) -> int:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(each.kind in kinds and each.default is inspect.Parameter.empty for each in parameters)


def _settings(name: str, function: Function) -> Settings:
    file = inspect.getsourcefile(function) if inspect.isfunction(function) else None
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else None
    return {"kind": "function", "function": name, "file": digest}


def _prompt(completion: Completion) -> Any:
    return completion.prompt if completion.messages is None else completion.messages


def _call(name: str, function: Function, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            "The judge's function raised an error.",
            found=f"{type(error).__name__}: {error}",
            where=f"{name}, {last.filename}, line {last.lineno}",
            fix="Correct the function; it may return None where it has no answer.",
        ) from error


def _number(value: Any, name: str, low: float, high: float) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or not low <= number <= high:
        raise InputError(
            "The judge's function gave something that cannot be used.",
            found=repr(value)[:200],
            where=name,
            fix="Return a finite number, of two completions one from 0 to 1, or None where there is no answer.",
        )
    return number


def _unusable(name: str, found: str) -> InputError:
    return InputError(
        "The judge's function cannot be used.",
        found=found,
        where=f"judge.function = {name!r}",
        fix="Give file.py:name or module:name of a function (prompt, completion) or (prompt, first, second).",
    )
