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

# The rooms, each with those that it may import; "pipeline" and "stages" stand for all rooms in them. A room is a
# package; a module that stands beside rooms (stages.config) is one of its own. Anything may import schemas.
ARROWS: dict[str, set[str]] = {
    "schemas": set(),
    "pipeline": set(),
    "pipeline.text": set(),
    "pipeline.detection": {"pipeline.text"},
    "pipeline.templates": {"pipeline.text"},
    "pipeline.batches": set(),
    "pipeline.attention": {"pipeline.batches"},
    "pipeline.head": {"pipeline.batches", "pipeline.attention"},
    "pipeline.forward": {"pipeline.batches", "pipeline.attention", "pipeline.head"},
    "pipeline.methods.pieces": set(),
    "pipeline.methods": {"pipeline.methods.pieces"},
    "pipeline.methods.papers": {"pipeline.methods", "pipeline.methods.pieces"},
    "pipeline.training": {"pipeline.batches", "pipeline.head", "pipeline.forward", "pipeline.methods"},
    "pipeline.memory": {"pipeline.batches", "pipeline.attention", "pipeline.head", "pipeline.forward"},
    "pipeline.generation": set(),
    "pipeline.evaluation": set(),
    "pipeline.samples": {"pipeline.audit.measures", "pipeline.evaluation"},
    "pipeline.judging": {"pipeline.evaluation"},
    "pipeline.audit": set(),
    "pipeline.audit.measures": {"pipeline.text"},
    "pipeline.audit.checks": {"pipeline.audit.measures", "pipeline.evaluation"},
    "pipeline.audit.summary": {
        "pipeline.audit.measures",
        "pipeline.audit.checks",
        "pipeline.evaluation",
        "pipeline.text",
    },
    "pipeline.pages": {"pipeline.evaluation"},
    "pipeline.verdict": {"pipeline.pages", "pipeline.evaluation"},
    "pipeline.pages.report": {"pipeline.pages", "pipeline.evaluation", "pipeline.samples"},
    "pipeline.pages.compare": {"pipeline.pages", "pipeline.evaluation"},
    "pipeline.pages.audit": {"pipeline.pages", "pipeline.evaluation", "pipeline.text"},
    "pipeline.demo": {"pipeline.evaluation"},
    "stages": set(),
    "stages.run_file": set(),
    "stages.run_text": set(),
    "stages.config": {"stages.run_file"},
    "stages.migration": {"stages.run_text"},
    "stages.common": {"stages.config", "pipeline"},
    "stages.weights": {"stages.config", "stages.common", "pipeline"},
    "stages.models": {"stages.config", "stages.common", "stages.weights", "pipeline"},
    "stages.remote": {"stages.config", "stages.common", "pipeline"},
    "stages.raw": {"stages.config", "stages.common", "stages.remote", "pipeline"},
    "stages.outputs": {"stages.config", "stages.common", "stages.remote", "stages.sharded", "pipeline"},
    "stages.data": {"stages.config", "stages.common", "stages.weights", "stages.models", "stages.raw", "pipeline"},
    "stages.store": {
        "stages.config",
        "stages.common",
        "stages.weights",
        "stages.models",
        "stages.data",
        "stages.remote",
        "pipeline",
    },
    "stages.cluster": {"stages.config", "stages.common", "stages.weights", "stages.models", "pipeline"},
    "stages.memory": {"stages.config", "stages.common", "stages.weights", "stages.models", "pipeline"},
    "stages.sharded": {"stages.config", "stages.memory", "stages.weights", "stages.models", "pipeline"},
}
SHARED = {
    f"stages.{room}" for room in ("config", "common", "weights", "cluster", "memory", "models", "raw", "data", "store")
}
ARROWS["stages.scoring"] = ARROWS["stages.held_out"] = SHARED | {"stages.sharded", "pipeline"}
ARROWS["stages.verdict"] = SHARED | {"pipeline"}
STAGES = ("prepare", "audit", "score", "train", "evaluate", "report", "demo", "estimate", "exchange", "push", "sample")
ARROWS |= {
    f"stages.{stage}": SHARED | {"stages.outputs", "stages.scoring", "stages.sharded", "pipeline"} for stage in STAGES
}
ARROWS["stages.train"] |= {"stages.held_out"}
ARROWS["stages.estimate"] |= {"stages.train"}
for stage in ("train", "evaluate", "report"):
    ARROWS[f"stages.{stage}"] |= {"stages.verdict"}
ARROWS["stages.compare"] = SHARED | {f"stages.{room}" for room in ("prepare", "score", "train", "evaluate", "outputs")}
ARROWS["stages.compare"] |= {"pipeline", "stages.run_file"}
ARROWS["stages.judge"] = SHARED | {"stages.outputs", "stages.remote", "pipeline"}
ARROWS["stages.pairs"] = SHARED | {"stages.outputs", "pipeline"}
ARROWS["stages.init"] = SHARED | {"stages.run_file", "stages.run_text", "stages.migration", "pipeline"}
ARROWS["stages.doctor"] = {"stages.config", "stages.common", "stages.store", "pipeline"}
ARROWS["stages.watch"] = {"stages.config", "stages.common", "pipeline"}
ARROWS["stages.commands"] = SHARED | {"stages.remote", "stages.outputs", "pipeline"}
ARROWS["stages.api"] = {"stages", "pipeline"}
ARROWS["stages.cli"] = {"stages", "pipeline"}
# A package's __init__ may gather what its inner rooms make.
GATHERS = {"pipeline.methods": {"pipeline.methods.papers"}}

# Tensor code runs on a bare GPU image without tables, table code starts at once without torch.
TENSOR_ROOMS = (
    "pipeline.batches",
    "pipeline.attention",
    "pipeline.head",
    "pipeline.forward",
    "pipeline.methods",
    "pipeline.training",
    "pipeline.memory",
    "pipeline.generation",
)


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
    assert importlib.import_module(f"scoreonce.{module}").__name__ == f"scoreonce.{module}"


def room_of(module: str) -> str:
    """The package that a module stands in; a module beside rooms is a room of its own."""
    if module in ARROWS:
        return module
    return module.rpartition(".")[0]


def allows(room: str, other: str) -> bool:
    """Whether a room may import another: itself, schemas, or one that its row of ARROWS names."""
    if other in (room, "schemas"):
        return True
    # stages.cli and stages.api stand above all other rooms; nothing stands above them.
    if other in ("stages.cli", "stages.api"):
        return False
    return other in ARROWS[room] or other.partition(".")[0] in ARROWS[room]


def test_every_room_has_its_arrows():
    rooms = {room_of(module) for module in MODULES}
    assert rooms == set(ARROWS), f"write a row of ARROWS for {sorted(rooms ^ set(ARROWS))}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    gathered = GATHERS.get(module, set())
    wrong = [
        f"{module} imports {name}: {room_of(module)} may not import {room_of(name)}, only "
        f"{', '.join(sorted(ARROWS[room_of(module)])) or 'schemas'}"
        for name in sorted(neighbours(module))
        if not allows(room_of(module), room_of(name)) and name not in gathered
    ]
    assert not wrong, "\n".join([*wrong, "Move what both need to a room below both."])


def test_the_arrows_have_no_circle():
    """Each room can be drawn below all that import it."""
    drawn: set[str] = set()
    left = {room: {other for other in ARROWS if other != room and allows(room, other)} for room in ARROWS}
    while ready := {room for room, below in left.items() if room not in drawn and below <= drawn | {"schemas"}}:
        drawn |= ready
    assert drawn == set(ARROWS), f"in a circle: {sorted(set(ARROWS) - drawn)}"


MODULES_ALONE = ("stages.config", "stages.run_file", "stages.run_text")


@pytest.mark.parametrize("room", [room for room in ARROWS if room not in MODULES_ALONE])
def test_a_room_has_a_few_files_and_says_what_goes_through(room):
    """Three to twelve files; one file per paper is as many as there are papers."""
    folder = ROOT.joinpath(*room.split("."))
    files = list(folder.glob("*.py"))
    inner = [path for path in folder.iterdir() if (path / "__init__.py").is_file()]
    documentation = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert documentation, f"{room} needs a docstring"
    if room not in ("schemas", "pipeline", "stages", "stages.api"):
        assert "In: " in documentation, f"{room}: say what enters, In: ..."
        assert "Out: " in documentation, f"{room}: say what leaves, Out: ..."
        assert inner or len(files) >= 3, f"{room} is too small for a room: {[path.name for path in files]}"
    assert room == "pipeline.methods.papers" or len(files) <= 13, f"{room} has {len(files)} files: divide it"


@pytest.mark.parametrize("module", MODULES)
def test_no_bare_import_of_our_folders(module):
    wrong = {name for name in imported(module, True) if name.partition(".")[0] in FOLDERS}
    assert not wrong, f"{module}: write scoreonce.{min(wrong)}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("pipeline")])
def test_pipeline_is_tensors_or_tables_never_both(module):
    found = third_party(module)
    assert not (found & TABLES and found & TENSORS), f"{module} needs {sorted(found & (TABLES | TENSORS))}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(TENSOR_ROOMS)])
def test_tensor_modules_need_no_tables(module):
    found = third_party(module) & (TABLES | {"pydantic", "datasets"})
    assert not found, f"{module} needs {sorted(found)}"


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
    """stages/api is installed as scoreonce itself, every other folder as scoreonce.<folder>."""
    tree = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    names = {f"scoreonce.{'.'.join(folder.parts)}" for folder in folders} - {"scoreonce.stages.api"}
    assert set(tree["packages"]) == names | {"scoreonce"}
    assert len(tree["packages"]) == len(set(tree["packages"]))


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
    code = "import sys; import scoreonce.stages.train.stage; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert not {"datasets", "pandas"} & set(loaded)


def test_preparing_leaves_the_code_of_models_alone():
    """It reads a tokenizer; what transformers loads before any model takes seconds, and warns of kernels."""
    code = "import sys; import scoreonce.stages.prepare.stage; print('transformers.modeling_utils' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_reading_parquet_and_token_ids_leaves_pandas_alone(tmp_path):
    """pyarrow's `read_table` and `to_numpy` would load it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from scoreonce.stages.common.files import read_parquet

    pq.write_table(pa.table({"ids": [[1, 2], [3]]}), tmp_path / "x.parquet")
    with pytest.raises(pa.ArrowInvalid, match="no column other"):
        read_parquet(tmp_path / "x.parquet", ["ids", "other"])
    code = (
        "import sys; from pathlib import Path; from scoreonce.stages.common import files; "
        "from scoreonce.stages.data import token_file; import pyarrow as pa; "
        "table = files.read_parquet(Path(sys.argv[1]), ['ids']); "
        "ids = table['ids'].chunk(0).cast(pa.list_(pa.int32())); "
        "print(token_file._views(ids)[1].tolist(), 'pandas' in sys.modules)"
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


def test_the_documented_table_is_the_methods():
    from scoreonce.stages.commands import listing

    page = (ROOT / "docs" / "methods-table.md").read_text(encoding="utf-8")
    _, _, after = page.partition("<!-- methods: made by `scoreonce methods --markdown` -->\n")
    assert after.partition("<!-- /methods -->")[0].strip() == listing.methods(None, "markdown").strip()


@pytest.mark.parametrize("module", [name for name in MODULES if name != "stages.common.frames"])
def test_names_of_files_are_no_patterns(module):
    """polars takes `*` and `[` in a name as a pattern, unless told otherwise."""
    calls = [node for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))) if isinstance(node, ast.Call)]
    assert "pl.scan_parquet" not in {ast.unparse(call.func) for call in calls}, "use scan_frame"
    read = [call for call in calls if ast.unparse(call.func) == "pl.read_parquet"]
    assert all("glob" in {keyword.arg for keyword in call.keywords} for call in read), "pass glob=False"
