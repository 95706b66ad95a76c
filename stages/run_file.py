"""The text of a run file as a tree, with overrides on top, and the messages for what in it cannot be used.

Nothing here knows the sections: `stages.config` declares them and calls these functions.
"""

from __future__ import annotations

import ast
import difflib
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from scoreonce.schemas.addresses import is_address, require_address
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.hyperparameters import HYPERPARAMETERS, OTHER_NAMES

LARGEST = 256 << 10  # bytes of a run file
DEEPEST = 16  # sections, tables and lists inside one another
DOTS = 500  # in one line: a dotted key takes memory that grows with the square of its parts
SHOWN = 200  # characters of a value in a message

Tree = dict[str, Any]


def read(path: Path) -> Tree:
    """The tree of a TOML file. Raises `InputError` where there is none, or none that can be read."""
    if problem := _unreadable(path):
        nearby = sorted(str(found) for found in path.parent.glob("*.toml")) if problem.startswith("no file") else []
        raise InputError(
            "The run file does not exist." if problem.startswith("no file") else "The run file cannot be read.",
            found=problem,
            where="the command's argument RUN.toml",
            fix=f"Give one of: {', '.join(nearby[:20])}." if nearby else "Copy one from configs/.",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(str(error), path) from None
    try:
        return _parsed(text)
    except ValueError as error:
        raise _invalid(str(error), path) from None


def _unreadable(path: Path) -> str | None:
    """Why a run file cannot be opened; None where it can. A folder cannot, nor can a pipe, which might never end."""
    try:
        if not path.exists():
            return f"no file {path}"
        if not path.is_file():
            return f"{path} is {'a folder' if path.is_dir() else 'a pipe or a device'}"
        size = path.stat().st_size
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL
        return f"{str(path)!r:.{SHOWN}}: {getattr(error, 'strerror', None) or error}"
    return f"{path} has {size:,} bytes, and a run file has at most {LARGEST:,}" if size > LARGEST else None


def _parsed(text: str) -> Tree:
    """TOML as a tree of bounded depth. Raises `ValueError` with the reason where it is none."""
    dots, number = max(((line.count("."), number) for number, line in enumerate(text.split("\n"), 1)))
    if dots > DOTS:
        raise ValueError(f"line {number} has {dots:,} dots: keys of that many parts are not read")
    try:
        tree = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"lists or tables are more than {DEEPEST} deep") from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python reads no longer numbers, whose time grows with the square of their digits
        raise ValueError("a number has more than 4,300 digits") from None
    if _depth(tree) > DEEPEST:
        raise ValueError(f"lists or tables are more than {DEEPEST} deep")
    return tree


def _depth(tree: Any) -> int:
    """Levels of a tree, found without recursion."""
    level, depth = [tree], 0
    while level:
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        depth += 1
    return depth


def _invalid(reason: str, path: Path) -> InputError:
    return InputError(
        "The run file is not valid TOML.",
        found=reason[:SHOWN],
        where=str(path),
        fix="Correct the place named above. Strings need quotes, numbers do not.",
    )


def override(tree: Tree, text: str) -> None:
    """Apply `section.key=value`. A value that is no TOML is text without quotes, which the shell has removed."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise InputError(
            "An override is not of the form section.key=value.",
            found=f"{text!r:.{SHOWN}}",
            where="--set",
            fix="Write it as --set train.beta=0.05.",
        )
    put(tree, key.strip(), value_of(value, key.strip()), "--set")


def value_of(text: str, key: str) -> Any:
    """The value of an override: TOML, or text without quotes. Raises `InputError` where it cannot be read."""
    try:
        return _parsed(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    except ValueError as error:
        raise InputError(
            "The value of an override cannot be read.",
            found=f"{error}",
            where=f"--set {key:.{SHOWN}}",
            fix="Give a value as a run file has it: a number, text, or a short list.",
        ) from None


def put(tree: Tree, key: str, value: Any, where: str) -> None:
    """Set `section.key` in a tree. Raises `InputError` where a part of the key is a value and no section."""
    *sections, last = key.split(".", DEEPEST)
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise InputError(
                "An override names a key inside a value that is not a section.",
                found=f"{key:.{SHOWN}}: {section:.{SHOWN}} is no section",
                where=where,
                fix="Name a key as section.key, e.g. train.beta.",
            )
    tree[last] = value


def unusable(error: pydantic.ValidationError, model: type[BaseModel], where: str) -> InputError:
    """The first thing that a run file's model refuses, in four parts."""
    first = error.errors(include_url=False)[0]
    # Where a value may be of several types, pydantic names the type in the location too.
    key = ".".join(part for part in map(str, first["loc"]) if part != "str" and not part.startswith("dict["))
    if first["type"] == "extra_forbidden":
        return unknown_key(key, first["input"], model, where)
    found = "nothing" if first["type"] == "missing" else f"{first['input']!r:.{SHOWN}}"
    return InputError(
        f"The run file's {key:.{SHOWN}} cannot be used: {_reason(first)}.",
        found=found,
        where=f"{where}, or --set",
        fix=_wanted(first["loc"], model),
    )


def _wanted(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """What a key takes, as its declaration says."""
    for number, part in enumerate(location, 1):
        field = model.model_fields.get(str(part))
        if field is None:
            break
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
        elif field.description:
            return f"Correct {'.'.join(map(str, location[:number]))}: {field.description}."
    return "Give a value as named above."


def _reason(error: ErrorDetails) -> str:
    if error["type"] == "model_type":
        return "it should be a section with keys"
    message = error["msg"].removeprefix("Value error, ").rstrip(".")
    return message[:1].lower() + message[1:]


def unknown_key(key: str, value: Any, model: type[BaseModel], where: str, also: Iterable[str] = ()) -> InputError:
    """The message for a key that nothing reads, with the nearest of all keys and hyperparameters.

    `also`: hyperparameters of a method file.
    """
    section = key.rpartition(".")[0]
    sections = keys(model)
    known = [*sections.get(section, [])]
    everything = [f"{name}.{each}".lstrip(".") for name, each_of in sections.items() for each in each_of]
    hyperparameters = [f"train.{name}" for name in (*HYPERPARAMETERS, *OTHER_NAMES, *also)]
    near = _nearest(key, [*everything, *hyperparameters])
    of_method = ", and no method has that hyperparameter" if section == "train" else ""
    more = " `scoreonce methods` lists the hyperparameters." if section == "train" else ""
    return InputError(
        f"The run file has an unknown key: {key:.{SHOWN}}{of_method}.",
        found=f"{key:.{SHOWN}} = {value!r:.{SHOWN}}.{near and f' Did you mean {near!r}?'}",
        where=where,
        fix=f"{'Known keys' if known else 'Sections'}: {', '.join(known or sections[''])}.{more}",
    )


def keys(model: type[BaseModel]) -> dict[str, list[str]]:
    """The keys of each section, the top of the file as ``."""
    found = {"": list(model.model_fields)}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found[name] = list(field.annotation.model_fields)
    return found


def _nearest(key: str, known: list[str]) -> str:
    """The known key that was meant: the same name in another section, or a similar one, best in the same section."""
    section, _, last = key.rpartition(".")
    by_last = {name.rpartition(".")[2]: name for name in reversed(known)}
    of_section = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    for names in (by_last,) if last in by_last else (of_section, by_last):
        if near := difflib.get_close_matches(last[:SHOWN], list(names), n=1, cutoff=0.6):
            return names[near[0]]
    return ""


def file_hyperparameters(path: str) -> frozenset[str] | None:
    """Names that a method file may give hyperparameters, found without running its code; None where it cannot be read.

    They are keyword-only parameters, and the other names that `method(..., synonyms={...})` declares.
    """
    try:
        if not Path(path).is_file():
            return None
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return None  # `train`, which runs the file, says what is wrong with it
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found |= {argument.arg for argument in node.args.kwonlyargs}
        elif isinstance(node, ast.keyword) and node.arg == "synonyms" and isinstance(node.value, ast.Dict):
            found |= {str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)}
    return frozenset(found)


def text(value: str) -> str:
    """A text that a file can hold. Raises `ValueError` otherwise."""
    if "\0" in value:
        raise ValueError("it has a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("it is not valid Unicode") from None
    return value


def name(value: str) -> str:
    """The name of a file, folder or Hub repository. Raises `ValueError` for what can be none."""
    text(value)
    if not value.strip():
        raise ValueError("it is empty")
    if len(os.fsencode(value)) > 3500 or any(len(os.fsencode(part)) > 255 for part in value.split("/")):
        raise ValueError("it is too long for a path: at most 255 bytes between slashes, 3,500 in all")
    try:
        Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"there is no user {value.split('/')[0]}") from None
    return value


def source(value: str) -> str:
    """The name of data, or of a folder to write, or its address. Raises `ValueError` for what can be neither."""
    return require_address(name(value)) if is_address(value) else name(value)
