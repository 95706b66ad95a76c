"""Shapes in annotations (`Float[Tensor, "tokens hidden"]`) are checked while the tests run, and never otherwise.

As jaxtyping's own import hook does, but only functions and dataclasses that state a shape are wrapped: it wraps every
function, which makes the tests of methods a third slower and stands in the way of torch.compile.
"""

import ast
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import jaxtyped

ROOMS = tuple(f"scoreonce.pipeline.{room}" for room in ("head", "forward", "training", "methods"))
COMPILED = ("scoreonce.pipeline.head.kernels",)  # torch.compile would trace the checks
SHAPES = {"Float", "Float64", "Int", "Bool", "Shaped", "PerPair", "PerStep", "StepColumn"}
# An int is a float, as everywhere in Python's typing.
checked: Callable[..., Any] = jaxtyped(typechecker=beartype(conf=BeartypeConf(is_pep484_tower=True)))


class _Loader(SourceFileLoader):
    def path_stats(self, path: str) -> Any:
        raise OSError("no bytecode is cached: it would not be the file's")

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:
        tree = ast.parse(data)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and _states_shape([node.args, node.returns]):
                node.decorator_list.append(_decorator())  # innermost: pieces are registered as they are checked
            if isinstance(node, ast.ClassDef) and _is_dataclass(node) and _states_shape(node.body):
                node.decorator_list.insert(0, _decorator())
        code: CodeType = compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True, optimize=_optimize)
        return code


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(ROOMS) or fullname in COMPILED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Before any module of these rooms is imported."""
    sys.meta_path.insert(0, _Finder())


def _decorator() -> ast.expr:
    return ast.parse("__import__('shape_checks').checked", mode="eval").body


def _states_shape(parts: list[Any]) -> bool:
    return any(
        isinstance(node, ast.Name) and node.id in SHAPES
        for part in parts
        if part is not None
        for node in ast.walk(part)
    )


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
