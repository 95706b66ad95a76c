"""The command line: help, exit codes, the four parts of an error; the example run files; the Makefile."""

import errno
import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages import cli, config
from scoreonce.stages.common.paths import RunPaths

ROOT = Path(__file__).resolve().parents[3]
STAGES = ["prepare", "audit", "score", "train", "evaluate", "report"]
COMMANDS = [
    *([name] for name in [*STAGES, "init", "compare", "estimate", "merge", "methods", "path", "doctor", "watch"]),
    *([name] for name in ["export-reference", "import-reference"]),
    *(["store", name] for name in ("list", "verify", "gc", "compact")),
    *(["demo", name] for name in ("task", "pairs", "judge")),
]


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'out = "runs/mine"\n[data]\nsource = "pairs.jsonl"\n[reference]\nmodel = "models/sft"\n'
        '[train]\nmethod = "dpo"\nlabel = "first"\nbeta = 0.2\n'
    )
    return str(path)


@pytest.fixture
def stage(monkeypatch):
    """Stands in for every stage module; `stage.calls` holds what the command line handed over."""

    class Stage:
        def __init__(self):
            self.calls = []

        def called(self, name):
            def call(run, **options):
                self.calls.append((name, run, options))
                return SimpleNamespace(exceeded=(), preview=())

            return call

    fake = Stage()
    fake.estimate = fake.called("estimate")
    for name in STAGES:
        setattr(fake, name, fake.called(name))
        package = importlib.import_module(f"scoreonce.stages.{name}")
        monkeypatch.setitem(sys.modules, f"scoreonce.stages.{name}.stage", fake)
        monkeypatch.setattr(package, "stage", fake, raising=False)
    return fake


@pytest.mark.parametrize("command", [[], *COMMANDS])
def test_help_of_every_command(command, capsys):
    assert cli.run_command([*command, "--help"]) == 0
    assert "Usage: scoreonce" in capsys.readouterr().out


def test_every_stage_gets_the_run(stage, run_file):
    for name in STAGES:
        assert cli.run_command([name, run_file, "--set", "data.limit=7"]) == 0
    assert [name for name, _, _ in stage.calls] == STAGES
    assert [run.data.limit for _, run, _ in stage.calls] == [7] * 6
    assert [run.train.label for _, run, _ in stage.calls] == ["first"] * 6


def test_options_reach_their_stage(stage, run_file):
    cli.run_command(["score", run_file, "--dry-run"])
    cli.run_command(["evaluate", run_file, "--model", "m", "--label", "other"])
    cli.run_command(["report", run_file, "--label", "a", "--label", "b"])
    cli.run_command(["prepare", run_file, "--restart"])
    cli.run_command(["train", run_file])
    cli.run_command(["train", run_file, "--restart", "--allow-method-file"])
    cli.run_command(["train", run_file, "--dry-run", "--allow-method-file"])
    assert [(name, options) for name, _, options in stage.calls] == [
        ("estimate", {"part": None}),
        ("evaluate", {"model": "m", "label": "other", "lock_timeout": None}),
        ("report", {"labels": ["a", "b"], "lock_timeout": None}),
        ("prepare", {"restart": True, "lock_timeout": None}),
        ("train", {"restart": False, "allow_method_file": False, "lock_timeout": None}),
        ("train", {"restart": True, "allow_method_file": True, "lock_timeout": None}),
        ("estimate", {"allow_method_file": True}),
    ]


def test_every_stage_waits_as_long_as_it_is_told(stage, run_file):
    for name in STAGES:
        assert cli.run_command([name, run_file, "--lock-timeout", "2.5"]) == 0
    assert [options["lock_timeout"] for _, _, options in stage.calls] == [2.5] * 6
    assert cli.run_command(["score", run_file, "--lock-timeout", "-1"]) == 2


@pytest.mark.parametrize("label", ["../x", "/tmp/x", "..", ".hidden", "", "a b", 'a"b', "a\nb", "ü", "x" * 101])
@pytest.mark.parametrize("command", ["train", "evaluate", "path"])
def test_a_label_is_a_name_and_no_path(stage, run_file, command, label, capsys):
    arguments = [command, run_file, *(["train"] if command == "path" else []), "--label", label]
    assert cli.run_command(arguments) == 2
    said = capsys.readouterr().err
    assert "where: train.label, or --label" in said
    assert "Traceback" not in said
    assert not stage.calls


def test_merge_gets_the_run(run_file, monkeypatch):
    from scoreonce.stages.train import merge

    merged = []
    monkeypatch.setattr(merge, "merge", lambda run, **_: merged.append(run))
    assert cli.run_command(["merge", run_file, "--label", "lora"]) == 0
    assert [run.train.label for run in merged] == ["lora"]


@pytest.mark.parametrize("command", ["prepare", "audit", "score", "train", "merge", "evaluate"])
def test_whatever_loads_a_model_or_tokenizer_can_be_told_to_trust_its_code(command, capsys):
    cli.run_command([command, "--help"])
    assert "--trust-remote-code" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "label"),
    [
        (["--method", "ipo"], "ipo"),
        (["--method", "ipo", "--label", "mine"], "mine"),
        (["--method", "ipo", "--set", "train.label=set"], "set"),
        (["--label", "mine"], "mine"),
        ([], "first"),
    ],
)
def test_another_method_inherits_neither_label_nor_hyperparameters(stage, run_file, options, label, caplog):
    caplog.set_level("INFO", logger="scoreonce")
    cli.run_command(["train", run_file, *options])
    _, run, _ = stage.calls[0]
    assert RunPaths.of(run).training == Path("runs/mine/train") / label
    assert run.train.method == ("ipo" if "--method" in options else "dpo")
    assert run.train.hyperparameters == ({} if "--method" in options else {"beta": 0.2})
    assert ("beta of the run file: for dpo alone; ipo has its own defaults" in caplog.text) == ("--method" in options)


def test_a_named_method_replaces_pieces(stage, run_file):
    cli.run_command(["train", run_file, "--set", "train.objective=ipo", "--method", "dpo"])
    Path(run_file).write_text(Path(run_file).read_text() + 'selection = "gaussian_gap"\n')
    cli.run_command(["train", run_file, "--method", "dpo"])
    cli.run_command(["train", run_file])
    assert stage.calls[0][1].train.objective == "ipo", "a piece given on the command line stays"
    assert [run.train.selection for _, run, _ in stage.calls[1:]] == [None, "gaussian_gap"]


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_several_methods_are_runs_one_after_the_other(stage, run_file, command):
    assert (
        cli.run_command([command, run_file, "--method", "dpo", "--method", "beta_dpo", "--set", "train.beta=0.2"]) == 0
    )
    assert [name for name, _, _ in stage.calls] == [command] * 2
    assert [run.train.method for _, run, _ in stage.calls] == ["dpo", "beta_dpo"]
    assert [RunPaths.of(run).label for _, run, _ in stage.calls] == ["dpo", "beta_dpo"]
    assert {run.train.hyperparameters["beta"] for _, run, _ in stage.calls} == {0.2}


@pytest.mark.parametrize("options", [["--label", "mine"], ["--set", "train.label=mine"], ["--method", "dpo"]])
def test_several_methods_have_a_label_each(stage, run_file, options, capsys):
    assert cli.run_command(["train", run_file, "--method", "dpo", "--method", "beta_dpo", *options]) == 2
    assert "Several methods cannot share one label" in capsys.readouterr().err
    assert stage.calls == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "missing.toml"], ["no file missing.toml"]),
        (["train", "{run}", "--set", "train.learning_rate=-1"], ["learning_rate", "-1"]),
        (["prepare", "{run}", "--set", "train.learning_rate=inf"], ["train.learning_rate", "finite number"]),
        (["prepare", "{run}", "--set", "train.weight_decay=nan"], ["train.weight_decay", "finite number"]),
        (["train", "{run}", "--set", "train.learning_rate=1e31"], ["train.learning_rate", "1e+31"]),
        (["prepare", "{run}", "--set", "evaluate.label=../x"], ["where: evaluate.label", "'../x'"]),
        (["train", "{run}", "--method", "../x/../.."], ["no such method"]),
        (["train", "{run}", "--set", "data.sauce=x"], ["data.sauce", "Did you mean 'data.source'?"]),
        (["path", "{run}", "raport"], ["raport", "Did you mean 'report'?"]),
    ],
)
def test_bad_input_is_four_parts_and_exit_2(arguments, expected, run_file, capsys):
    assert cli.run_command([argument.format(run=run_file) for argument in arguments]) == 2
    said = capsys.readouterr().err
    for part in ["error: ", "\n  found: ", "\n  where: ", "\n  do:    ", *expected]:
        assert part in said
    assert "Traceback" not in said
    assert "\x1b" not in said, "colour only on a terminal"


def test_unknown_command_and_option_exit_2(run_file, capsys):
    assert cli.run_command(["trian", run_file]) == 2
    assert cli.run_command(["train", run_file, "--metod", "dpo"]) == 2
    said = capsys.readouterr().err
    assert "trian" in said
    assert "--metod" in said


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (InputError("Bad.", found="f", where="w", fix="x"), 2, ["error: Bad."]),
        (KeyboardInterrupt(), 130, ["interrupted: ", "checkpoint stay", "scoreonce prepare"]),
        (OSError(errno.ENOSPC, "No space left on device"), 2, ["error: The disk is full", "found", "where", "do:"]),
        (
            RuntimeError("Error while serializing: No space left on device (os error 28)"),
            2,
            ["error: The disk is full"],
        ),
        (OSError(errno.EACCES, "Permission denied", "runs/x"), 2, ["error: A file or folder may not", "runs/x", "do:"]),
        (SystemExit("text"), 1, []),
        (SystemExit(143), 143, []),
        (OSError(errno.EIO, "Input/output error"), 1, ["Traceback", "fault: ", "scoreonce prepare"]),
        (ZeroDivisionError("ours"), 1, ["Traceback", "ZeroDivisionError: ours", "fault: "]),
    ],
)
def test_errors_of_a_stage(stage, run_file, capsys, monkeypatch, error, code, expected):
    def fail(run, **options):
        raise error

    monkeypatch.setattr(stage, "prepare", fail)
    assert cli.run_command(["prepare", run_file]) == code
    said = capsys.readouterr().err
    for part in expected:
        assert part in said


def test_a_full_disk_behind_another_error(stage, run_file, capsys, monkeypatch):
    def fail(run, **options):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ValueError("could not write") from error

    monkeypatch.setattr(stage, "prepare", fail)
    assert cli.run_command(["prepare", run_file]) == 2
    assert "The disk is full" in capsys.readouterr().err


def test_paths(tmp_path, run_file, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "pairs.jsonl").write_text("")
    sets = ["--set", f"data.source={tmp_path}/pairs.jsonl", "--set", f"reference.model={tmp_path}/model"]
    assert cli.run_command(["path", run_file, "inputs", *sets]) == 0
    assert capsys.readouterr().out.split() == [
        f"{tmp_path}/{name}" for name in ("pairs.jsonl", "model", "model/config.json")
    ]
    assert cli.run_command(["path", run_file, "inputs", "--set", "data.source=org/hub-name"]) == 0
    assert capsys.readouterr().out == "", "names on the Hub are no files"
    assert cli.run_command(["path", run_file, "report"]) == 0
    assert capsys.readouterr().out == "runs/mine/report.html\n"
    assert cli.run_command(["path", run_file, "audit"]) == 0
    assert capsys.readouterr().out.split() == [
        f"runs/mine/audit/{name}" for name in ("index.html", "audit.json", "pairs.parquet")
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.name)
def test_run_files_load(path):
    written = tomllib.loads(path.read_text(encoding="utf-8"))
    assert config.load(path).data.source == written["data"]["source"]


def test_the_example_names_every_key_with_its_default():
    text = (ROOT / "configs" / "example.toml").read_text(encoding="utf-8")
    run = config.load(ROOT / "configs" / "example.toml")
    for section, model in run:
        if section == "out":
            continue
        block = text.split(f"[{section}]")[1].split("\n[")[0]
        named = {line.removeprefix("# ").split(" = ")[0] for line in block.splitlines() if " = " in line}
        fields = type(model).model_fields
        assert set(fields) - named == set(), f"[{section}] lacks keys"
        assert named - set(fields) - {"beta"} == set(), f"[{section}] has keys that nothing reads"
        for name, field in fields.items():
            if not field.is_required() and f"\n{name} = " in block:
                assert getattr(model, name) == field.default, f"{section}.{name} is not the default"


# ---- Make ----


def make(*arguments: str, folder: Path = ROOT) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout


def test_make_help_lists_every_target():
    listed = make().split("\n")
    for target in [*STAGES, "setup", "demo", "test", "test-fast", "bench", "clean"]:
        assert any(line.startswith(f"  make {target} ") for line in listed), target


@pytest.fixture
def project(tmp_path):
    """A folder with our Makefile, a run file and data, and a stand-in `scoreonce` that logs its arguments."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text(encoding="utf-8"))
    for name in ("pyproject.toml", "constraints.txt", "x.toml", "pairs.jsonl"):
        (tmp_path / name).write_text("")
    binary = tmp_path / "venv" / "bin" / "scoreonce"
    binary.parent.mkdir(parents=True)
    binary.write_text('#!/bin/sh\nif [ "$1" = path ]; then echo pairs.jsonl; else echo "$@" >> log; fi\n')
    binary.chmod(0o755)
    (tmp_path / "venv" / ".ready").write_text("")
    return tmp_path


def stages_run(project: Path, *arguments: str) -> list[str]:
    (project / "log").write_text("")
    make(*arguments, "RUN=x.toml", "VENV=venv", folder=project)
    return (project / "log").read_text().splitlines()


def test_make_runs_each_stage_once_in_order(project):
    assert stages_run(project, "report", "METHOD=dpo ipo") == [
        "prepare x.toml",
        "score x.toml",
        "train x.toml --method dpo",
        "evaluate x.toml --method dpo",
        "train x.toml --method ipo",
        "evaluate x.toml --method ipo",
        "report x.toml",
    ]
    assert stages_run(project, "report", "METHOD=dpo ipo") == []
    assert stages_run(project, "evaluate", "METHOD=ipo hinge") == [
        "train x.toml --method hinge",
        "evaluate x.toml --method hinge",
    ]


def test_make_without_method_takes_the_run_files(project):
    assert stages_run(project, "train") == ["prepare x.toml", "score x.toml", "train x.toml"]


def test_make_sft_needs_no_scores(project):
    assert stages_run(project, "train", "METHOD=sft") == ["prepare x.toml", "train x.toml --method sft"]


@pytest.mark.parametrize("changed", ["x.toml", "pairs.jsonl"])
def test_make_reruns_when_an_input_changed(project, changed):
    stages_run(project, "score")
    newest = max(path.stat().st_mtime_ns for path in (project / ".make").rglob("*")) + 10**9
    os.utime(project / changed, ns=(newest, newest))
    assert stages_run(project, "score") == ["prepare x.toml", "score x.toml"]


def test_make_reruns_when_set_changed(project):
    stages_run(project, "score", "SET=train.beta=0.1")
    assert stages_run(project, "score", "SET=train.beta=0.1") == []
    assert stages_run(project, "audit", "SET=train.beta=0.2 data.limit=5") == [
        f"{name} x.toml --set train.beta=0.2 --set data.limit=5" for name in ("prepare", "audit")
    ]


def test_make_demo_goes_through_the_stages(project):
    (project / "configs").mkdir()
    (project / "configs" / "demo.toml").write_text("")
    (project / "log").write_text("")
    said = make("demo", "VENV=venv", folder=project)
    sft, pairs = "configs/demo_sft.toml", "configs/demo.toml"
    methods = "--method dpo --method beta_dpo --method epsilon_dpo --method minor_dpo --method alpha_dpo"
    assert (project / "log").read_text().splitlines() == [
        f"demo task {sft}",
        f"prepare {sft}",
        f"train {sft}",
        f"demo pairs {pairs}",
        f"prepare {pairs}",
        f"score {pairs}",
        f"train {pairs} {methods}",
        f"evaluate {pairs} {methods}",
        f"demo judge {pairs}",
        f"report {pairs}",
    ]
    assert said.splitlines()[-1] == "Open pairs.jsonl", "the path that the stand-in gives for everything"


def test_make_goes_on_when_an_input_has_gone(project):
    stages_run(project, "score")
    (project / "pairs.jsonl").unlink()
    assert stages_run(project, "score") == ["prepare x.toml", "score x.toml"]
