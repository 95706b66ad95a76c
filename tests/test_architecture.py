"""What may import what, that the package matches the folders, and that documents made from code are up to date."""

import ast
import importlib
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("schemas", "pipeline", "stages")
TABLES = {"polars", "pyarrow", "dataframely"}
TENSORS = {"torch", "transformers", "accelerate", "peft", "safetensors"}
HEAVY = TABLES | TENSORS | {"datasets", "altair", "numpy"}

# Stages may share these; a stage itself (prepare, audit, score, train, evaluate, report, demo) is nobody's module.
STAGES = {"prepare", "audit", "score", "train", "evaluate", "report", "demo"}

# Tensor code that runs on a bare GPU image, and table code that starts at once. Loading a model needs neither table.
TENSOR_MODULES = {
    "rows",
    "batching",
    "head",
    "fused",
    "blocks",
    "flex",
    "flash",
    "compiling",
    "transfer",
    "forward",
    "probe",
    "architecture",
    "step",
}


def module_files() -> dict[str, Path]:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


MODULES = module_files()


@cache
def imported(module: str, lazy: bool) -> frozenset[str]:
    """Full names that a module imports, `scoreonce.` taken off; with `lazy`, those inside functions too.

    Imports for the type checker alone never run, so they do not count.
    """
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    names: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not lazy:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        pending.extend(ast.iter_child_nodes(node))
    return frozenset(names)


def ours(name: str) -> str | None:
    """The module of ours that an imported name means, if any."""
    if not name.startswith("scoreonce."):
        return None
    inner = name.removeprefix("scoreonce.")
    while inner and inner not in MODULES:
        inner = inner.rpartition(".")[0]
    return inner or None


def neighbours(module: str, lazy: bool = True) -> set[str]:
    return {found for name in imported(module, lazy) if (found := ours(name)) is not None and found != module}


def third_party(module: str, lazy: bool = True) -> set[str]:
    """Top-level packages that a module needs, through everything of ours that it imports, parents included."""
    seen, pending = set(), [module]
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        pending += neighbours(current, lazy)
        parent = current.rpartition(".")[0]
        pending += [parent] if parent in MODULES else []
    return {name.partition(".")[0] for each in seen for name in imported(each, lazy)} - {"scoreonce"}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports(module):
    importlib.import_module(f"scoreonce.{module}")


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    allowed = {"schemas": {"schemas"}, "pipeline": {"schemas", "pipeline"}, "stages": {"schemas", "pipeline", "stages"}}
    folder = module.partition(".")[0]
    wrong = {name for name in neighbours(module) if name.partition(".")[0] not in allowed[folder]}
    assert not wrong, f"{module} may not import {sorted(wrong)}"


@pytest.mark.parametrize("module", [name for name in MODULES if name != "stages.cli"])
def test_no_module_imports_a_stage(module):
    wrong = {name for name in neighbours(module) if name in {f"stages.{stage}" for stage in STAGES}}
    assert not wrong, f"{module} may not import {sorted(wrong)}: put what is shared into a module of its own"


@pytest.mark.parametrize("module", MODULES)
def test_no_bare_import_of_our_folders(module):
    wrong = {name for name in imported(module, True) if name.partition(".")[0] in FOLDERS}
    assert not wrong, f"{module}: write scoreonce.{min(wrong)}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("pipeline")])
def test_pipeline_is_tensors_or_tables_never_both(module):
    found = third_party(module)
    assert not (found & TABLES and found & TENSORS), f"{module} needs {sorted(found & (TABLES | TENSORS))}"


def test_tensor_modules_need_no_tables():
    modules = [name for name in MODULES if name.startswith("pipeline.methods")]
    modules += [f"pipeline.{name}" for name in sorted(TENSOR_MODULES)]
    found = {name: sorted(third_party(name) & TABLES) for name in modules}
    assert not {name: tables for name, tables in found.items() if tables}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("pipeline")])
def test_pipeline_touches_nothing_outside(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {"open", "print", "input", "os.getenv", "os.environ.get", "Path.open"}
    assert not imported(module, True) & {"os", "pathlib.Path", "subprocess", "tempfile", "shutil", "io"}


@pytest.mark.parametrize("module", MODULES)
def test_no_pickle(module):
    assert not {name for name in imported(module, True) if name.partition(".")[0] in {"pickle", "dill", "joblib"}}
    assert "torch.save" not in MODULES[module].read_text(encoding="utf-8")


def test_packages_are_the_folders():
    tree = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert {Path(path) for path in tree["package-dir"].values()} == folders
    assert set(tree["packages"]) == set(tree["package-dir"])
    assert {name: f"scoreonce.{'.'.join(Path(path).parts)}" for name, path in tree["package-dir"].items()} == {
        name: name for name in tree["packages"]
    }


@pytest.mark.parametrize("command", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys; from scoreonce.stages.cli import run_command; code = run_command(sys.argv[1:]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert not HEAVY & set(result.stderr.split())


def test_training_leaves_data_libraries_alone():
    """transformers' Trainer would load datasets and pandas: 80 MiB at each start."""
    code = "import sys; import scoreonce.stages.train; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert not {"datasets", "pandas"} & set(loaded)


def test_reading_parquet_and_token_ids_leaves_pandas_alone(tmp_path):
    """pyarrow's `read_table` and `to_numpy` would load it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from scoreonce.stages.common.files import read_parquet

    pq.write_table(pa.table({"ids": [[1, 2], [3]]}), tmp_path / "x.parquet")
    with pytest.raises(pa.ArrowInvalid, match="no column other"):
        read_parquet(tmp_path / "x.parquet", ["ids", "other"])
    code = (
        "import sys; from pathlib import Path; from scoreonce.stages import files, tokens; import pyarrow as pa; "
        "table = files.read_parquet(Path(sys.argv[1]), ['ids']); "
        "ids = table['ids'].chunk(0).cast(pa.list_(pa.int32())); "
        "print(tokens._views(ids)[1].tolist(), 'pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.parquet")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[1, 2, 3] False\n"


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused"])
def test_adamw_is_what_transformers_would_make(name):
    from types import SimpleNamespace

    from scoreonce.pipeline.training import optimizer

    settings = SimpleNamespace(
        optimizer=name, learning_rate=0.1, weight_decay=0.2, adam_beta1=0.3, adam_beta2=0.4, adam_epsilon=0.5
    )
    assert optimizer._adamw(settings) == optimizer._by_transformers(settings)


def test_readme_table_is_the_methods():
    from scoreonce.stages.commands import listing

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, after = readme.partition("<!-- methods: made by `scoreonce methods --markdown` -->\n")
    assert after.partition("<!-- /methods -->")[0].strip() == listing.methods(None, "markdown").strip()
