"""Models, tokenizers, adapters and method files that cannot be used."""

import json
import os
import shutil

import pytest
from bad_input import Case

from scoreonce.stages import cli

PREPARE = "prepare RUN --set out={own}/out --set reference.model={own}/m"
TRAIN = "train RUN --label a --set train.method_file={own}/mine.py"
CONFIG = {"model_type": "llama", "hidden_size": 16, "vocab_size": 34, "num_hidden_layers": 1, "num_attention_heads": 2}
CASES = [
    # ---- tokenizers ----
    Case(PREPARE, ("No such model.", "no folder")),
    Case(PREPARE, ("The tokenizer cannot be loaded.",), {"m/readme.txt": ""}),
    Case(PREPARE, ("The tokenizer cannot be loaded.",), {"m/tokenizer.json": "nonsense", "m/config.json": "{}"}),
    Case(PREPARE, ("The tokenizer cannot be loaded.",), {"m/tokenizer.json": "{}", "m/tokenizer_config.json": "{}"}),
    Case(PREPARE, ("The tokenizer cannot be loaded.",), {"m/tokenizer_config.json": "[1]", "m/tokenizer.json": "[]"}),
    Case(PREPARE, ("The tokenizer cannot be loaded.",), {"m/tokenizer_config.json": "[" * 50_000}),
    Case(PREPARE, ("The tokenizer cannot be loaded.",), {"m/config.json": '{"model_type": "no-such-type"}'}),
    Case(
        PREPARE,
        ("The tokenizer cannot be loaded.",),
        {
            "m/config.json": json.dumps(CONFIG | {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}),
            "m/tokenizer_config.json": json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}),
            "m/evil.py": "raise SystemExit('it ran')\n",
        },
    ),
    Case(
        PREPARE,
        ("tokenizer.json is a pipe",),
        {"m/config.json": "{}"},
        lambda own: os.mkfifo(own / "m" / "tokenizer.json"),
    ),
    Case("prepare RUN --set out={own}/out --set reference.model=a/b/c", ("No such model.",)),
    Case("prepare RUN --set out={own}/out --set reference.model=..x--y", ("No such model.",)),
    Case("prepare RUN --set out={own}/out --set reference.model=s3://bucket/m", ("No such model.",)),
    Case("prepare RUN --set out={own}/out --set data.tokenizer={own}/t", ("No such model.", "no folder")),
    Case("prepare RUN --set out={own}/out --set reference.model={own}/m", ("No such model.",), {"m": "a file"}),
]
SCORING = [
    # ---- models: pairs are there ----
    Case("score RUN --set reference.model={own}/m", ("No such model.",)),
    Case("score RUN --set reference.model={own}/m", ("has no configuration",), {"m/readme.txt": ""}),
    Case("score RUN --set reference.model={own}/m", ("has no weights",), {"m/config.json": json.dumps(CONFIG)}),
    *(
        Case("score RUN --set reference.model={own}/m", (says,), model={"config.json": content})
        for content, says in (
            (None, "has no configuration"),
            ("nonsense", "cannot be loaded"),
            ("[" * 50_000, "cannot be loaded"),
            ("[]", "cannot be loaded"),
            ("5", "cannot be loaded"),
            ('{"model_type": 5}', "cannot be loaded"),
            ('{"model_type": "no-such-type"}', "cannot be loaded"),
            (json.dumps(CONFIG | {"hidden_size": "wide"}), "cannot be loaded"),
            (json.dumps(CONFIG | {"num_attention_heads": 0}), "cannot be loaded"),
            (json.dumps(CONFIG | {"auto_map": {"AutoConfig": "evil.Evil"}, "model_type": "x"}), "cannot be loaded"),
        )
    ),
    *(
        Case(
            "score RUN --set reference.model={own}/m",
            ("A weight file is incomplete or damaged.",),
            model={"model.safetensors": content},
        )
        for content in (b"", b"nonsense", b"\xff" * 8 + b"{}", b"\x08\0\0\0\0\0\0\0[[[[[[[[")
    ),
    Case("score RUN --set reference.adapter={own}/m", ("has no weights",), {"m/adapter_config.json": "{}"}),
    Case("score RUN --set reference.adapter={own}/m", ("configuration",), {"m/adapter_config.json": "nonsense"}),
    Case(
        "score RUN --set reference.adapter={own}/m",
        ("The adapter cannot be loaded.",),
        {"m/adapter_config.json": '{"peft_type": "NONE"}', "m/adapter_model.safetensors": b"\x02\0\0\0\0\0\0\0{}"},
    ),
    Case("score RUN --set reference.adapter={own}/m", ("No such model.",)),
    Case("train RUN --set train.model={own}/m", ("No such model.",)),
    Case("evaluate RUN --model {own}/m", ("No such model.",)),
    Case("evaluate RUN", ("There is no trained policy to evaluate.", "scoreonce train")),
    Case(
        "score RUN --set reference.model={own}/m",
        ("config.json is a pipe",),
        {"m/model.safetensors": ""},
        lambda own: os.mkfifo(own / "m" / "config.json"),
    ),
    # ---- methods ----
    Case("train RUN --method dppo", ("no such method", "Did you mean 'dpo'?")),
    Case("train RUN --set train.objective=nothing", ("nothing",)),
    Case("train RUN --set train.calibration=nothing", ("nothing",)),
    Case("train RUN --set train.gamma=1", ("Method dpo has no hyperparameter gamma.",)),
    Case("train RUN --set train.beta=-1", ("beta of method dpo cannot be -1.",)),
    Case("train RUN --set train.beta=inf", ("beta",)),
    Case("train RUN --set train.beta=text", ("beta of method dpo cannot be 'text'.",)),
    Case("train RUN --set train.beta=[1]", ("beta of method dpo cannot be [1].",)),
    Case("train RUN --method epsilon_dpo", ("scoreonce score",)),
    Case("train RUN --set train.optimizer=adam", ("No such optimizer.",)),
    Case("train RUN --set train.optimizer=galore_adamw", ("The optimizer cannot be made.",)),
    Case("train RUN --set train.scheduler=constnt", ("No such schedule.", "Did you mean 'constant'?")),
    Case("train RUN --set train.scheduler=reduce_lr_on_plateau", ("The schedule cannot be made.", "follows a loss")),
    Case("train RUN --set train.scheduler=greedy", ("The schedule cannot be made.",)),
    Case("train RUN --set train.scheduler=warmup_stable_decay", ("The schedule cannot be made.",)),
    Case("train RUN --set train.log_with=['nothing']", ("No such tracker.",)),
    Case("train RUN --set train.lora_rank=4 --set train.lora_targets=['nothing']", ("LoRA finds nothing to adapt.",)),
    Case("train RUN --set train.where=nothing>1", ("nothing",)),
    Case("train RUN --set train.where=chosen_len", ("not boolean",)),
    Case("train RUN --set train.where=chosen_len<0", ("holds for no",)),
    Case("train RUN --set train.where=" + "(" * 5000, ("not a valid SQL expression",)),
    Case(
        "train RUN --set train.where=chosen_len\N{NO-BREAK SPACE}IN\N{NO-BREAK SPACE}"
        "(SELECT\N{NO-BREAK SPACE}x\N{NO-BREAK SPACE}FROM\N{NO-BREAK SPACE}read_csv('/etc/passwd'))",
        ("The SQL reads a file.",),
    ),
    # ---- method files ----
    Case(TRAIN, ("names a Python file whose code would be run", "--allow-method-file"), {"mine.py": "1 / 0"}),
    Case(TRAIN + " --allow-method-file", ("The method file cannot be read.",)),
    Case(
        TRAIN + " --allow-method-file", ("cannot be read", "it is no file"), make=lambda own: os.mkfifo(own / "mine.py")
    ),
    Case(TRAIN + " --allow-method-file", ("cannot be read",), make=lambda own: (own / "mine.py").mkdir()),
    *(
        Case(TRAIN + " --allow-method-file", ("The method file", says), {"mine.py": code})
        for code, says in (
            ("import sys\nsys.exit()", "SystemExit"),
            ("import sys\nsys.exit(0)", "SystemExit: 0"),
            ("1 / 0", "ZeroDivisionError"),
            ("def f(:", "SyntaxError"),
            ("x = 1", "registers no method"),
            ("import no_such_package", "ModuleNotFoundError"),
            (b"\xff\xfe", "raised an error"),
            (b"x = '\0'", "raised an error"),
            ("(" * 10_000 + ")" * 10_000, "raised an error"),
        )
    ),
    Case(
        "train RUN --set train.method_file={own}/mine.txt --allow-method-file", ("not a Python file",), {"mine.txt": ""}
    ),
    Case("methods --method-file {own}/mine.py", ("SystemExit",), {"mine.py": "raise SystemExit"}),
    Case("methods dppo", ("There is no such method.", "Did you mean 'dpo'?")),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refused(refused, case):
    refused(case)


@pytest.mark.usefixtures("finished", "forgets_methods")
@pytest.mark.parametrize("case", SCORING, ids=str)
def test_refused_after_prepare(refused, case):
    refused(case)


@pytest.mark.usefixtures("forgets_methods")
def test_what_is_refused_leaves_nothing_under_its_label(refused, finished, tmp_path):
    """So that the corrected command is not refused for what the wrong one left."""
    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    lineage = out / "train" / "fresh" / "lineage.json"
    refused(Case(f"train RUN --set out={out} --label fresh --set train.optimizer=adam", ("No such optimizer.",)))
    assert not lineage.exists()
    mine = tmp_path / "mine.py"
    mine.write_text(METHOD)
    given = [f"out={out}", f"train.method_file={mine}", "train.slack=2.0"]
    options = ["--label", "fresh", "--method", "own_method", "--allow-method-file"]
    assert cli.run_command(["train", "run.toml", *options, *(word for each in given for word in ("--set", each))]) == 0
    assert json.loads(lineage.read_text())["method"]["name"] == "own_method"


METHOD = """
from torch import Tensor
from scoreonce.pipeline.methods import Paper, method, objective
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards


@objective(rewards=logratio_rewards)
def own_objective(margin: Tensor, beta: Tensor, *, slack: float = 1.0) -> Tensor:
    return (slack - beta * margin).relu().square()


method("own_method", "One of one's own", paper=Paper("", "", ""), objective=own_objective)
"""
