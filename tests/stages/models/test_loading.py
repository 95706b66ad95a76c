"""Which code loading may run."""

import ast
from pathlib import Path

from scoreonce.stages.models import loading as models


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
