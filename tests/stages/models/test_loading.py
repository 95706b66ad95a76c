"""What loading sets in the process, and which code it may run."""

import ast
import ctypes
from pathlib import Path
from types import SimpleNamespace

import pytest

from scoreonce.stages.models import loading as models


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch, platform):
    asked = []
    library = SimpleNamespace(mallopt=lambda option, value: asked.append((option, value)))
    monkeypatch.setattr(models.sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    models.keep_freed_memory()
    assert asked == ([(-1, 2**31 - 1), (-3, 64 * 2**20)] if platform == "linux" else [])
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # musl
    models.keep_freed_memory()


def test_nothing_is_loaded_without_saying_whether_its_code_may_run():
    """transformers runs the Python code of a folder only if told to; else it fails on such a folder."""
    stages = Path(models.__file__).resolve().parents[1]
    calls = [
        (path.name, node)
        for path in sorted(stages.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("Auto", "multimodal.auto_class("))
    ]
    assert {ast.unparse(call.func) for _, call in calls} >= {
        "AutoConfig.from_pretrained",
        "AutoTokenizer.from_pretrained",
        "multimodal.auto_class(config).from_config",
        "multimodal.auto_class(config).from_pretrained",
    }
    silent = [
        f"{name}: {ast.unparse(call)}"
        for name, call in calls
        if "trust_remote_code" not in {keyword.arg for keyword in call.keywords}
    ]
    assert not silent
