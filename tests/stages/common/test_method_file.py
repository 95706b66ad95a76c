"""A method of one's own, from a file."""

import os
from pathlib import Path

import pytest
import torch

from scoreonce.pipeline import methods
from scoreonce.pipeline.methods import ALIASES, METHODS
from scoreonce.pipeline.methods.pieces.registry import PIECES
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.method_file import load_allowed, load_file
from scoreonce.stages.config import Train

MINE = '''
"""Squared hinge on the margin, from a talk."""
from typing import Annotated
from torch import Tensor
from scoreonce.pipeline.methods import Paper, method, objective
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards

Slack = Annotated[float, Allowed("the margin at which the loss ends", above=0)]

@objective(rewards=logratio_rewards)
def squared_hinge(margin: Tensor, beta: Tensor, *, slack: Slack = 1.0) -> Tensor:
    """max(0, slack - beta Delta)^2, per pair (pairs,)."""
    return (slack - beta * margin).relu().square()

method("squared_hinge", "Squared hinge", paper=Paper("A talk", "", ""), objective=squared_hinge,
       aliases={"sq": {"slack": 2.0}})
'''


pytestmark = pytest.mark.usefixtures("forgets_methods")


def write(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_adds_its_method_everywhere(tmp_path: Path) -> None:
    """beta Delta = 0.1 * 4 = 0.4: (1 - 0.4)^2 = 0.36; with slack 2, 2.56."""
    assert load_file(write(tmp_path, MINE)) == ["squared_hinge"]
    columns = {
        "policy_chosen_logps": torch.tensor([-1.0]),
        "policy_rejected_logps": torch.tensor([-5.0]),
        "ref_chosen_logps": torch.tensor([-3.0]),
        "ref_rejected_logps": torch.tensor([-3.0]),
    }
    assert float(methods.apply("squared_hinge", columns).loss) == pytest.approx(0.36)
    assert float(methods.apply("sq", columns).loss) == pytest.approx(2.56)
    assert "squared_hinge" in [row["name"] for row in methods.table()]
    composed = methods.resolve("beta_dpo", {}, objective="squared_hinge")
    assert composed.name == "squared_hinge+batch_beta+gaussian_gap"
    assert methods.resolve(None, {}, objective="0.5*squared_hinge + sft").hyperparameters["slack"] == 1.0


def test_loading_again_replaces(tmp_path: Path) -> None:
    path = write(tmp_path, MINE)
    load_file(path)
    assert load_file(path) == ["squared_hinge"]
    write(tmp_path, MINE.replace("= 1.0)", "= 3.0)"))
    load_file(path)
    assert methods.resolve("squared_hinge", {}).hyperparameters["slack"] == 3.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", ("registers no method", "method(")),
        ("def f(:\n", ("raised an error", "SyntaxError", "line 1")),
        ("\nimport nowhere_to_be_found\n", ("raised an error", "ModuleNotFoundError", "line 2")),
        (MINE.replace("margin: Tensor", "margn: Tensor"), ("does not exist there", "Did you mean 'margin'?")),
        (MINE.replace('method("squared_hinge"', 'method("dpo"'), ("two methods 'dpo'",)),
        (MINE.replace('{"sq"', '{"sigmoid"'), ("two methods 'sigmoid'",)),
        (
            MINE.replace("def squared_hinge", "def ipo").replace("objective=squared_hinge", "objective=ipo"),
            ("two of the objective 'ipo'",),
        ),
    ],
)
def test_a_bad_file_is_refused_and_leaves_nothing_behind(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    before = {kind: dict(pieces) for kind, pieces in PIECES.items()}, dict(METHODS), dict(ALIASES)
    with pytest.raises(InputError) as raised:
        load_file(write(tmp_path, text))
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert before == ({kind: dict(pieces) for kind, pieces in PIECES.items()}, dict(METHODS), dict(ALIASES))


def test_a_good_file_stays_where_its_next_version_fails(tmp_path: Path) -> None:
    path = write(tmp_path, MINE)
    load_file(path)
    write(tmp_path, "1 / 0\n")
    with pytest.raises(InputError, match="raised an error"):
        load_file(path)
    assert methods.resolve("sq", {}).name == "squared_hinge"


@pytest.mark.parametrize(
    ("name", "words"), [("none.py", ("cannot be read", "none.py")), ("mine.toml", ("not a Python file",))]
)
def test_no_file(tmp_path: Path, name: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as raised:
        load_file(str(tmp_path / name))
    assert all(word in str(raised.value) for word in words), str(raised.value)


@pytest.mark.parametrize(
    "code", ["import sys\nsys.exit()", "exit(0)", "raise SystemExit('text')", "raise GeneratorExit"]
)
def test_a_file_that_leaves_the_program_is_refused(tmp_path: Path, code: str) -> None:
    with pytest.raises(InputError, match="raised an error"):
        load_file(write(tmp_path, code))


def test_ctrl_c_while_a_file_runs_is_no_error_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        load_file(write(tmp_path, "raise KeyboardInterrupt"))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(InputError, match="cannot be read"):
        load_file(str(tmp_path / "pipe.py"))


@pytest.mark.parametrize("statement", ["raise SystemExit(0)", "return margin.nothing", "1 / 0"])
def test_a_function_that_fails_or_leaves_is_named_with_its_line(tmp_path: Path, statement: str) -> None:
    path = write(tmp_path, MINE.replace("return (slack - beta * margin).relu().square()", statement))
    load_file(path)
    columns = {
        f"{whose}_{side}_logps": torch.tensor([-1.0]) for whose in ("policy", "ref") for side in ("chosen", "rejected")
    }
    with pytest.raises(InputError) as raised:
        methods.apply("squared_hinge", columns)
    assert raised.value.what == "The objective squared_hinge raised an error."
    assert raised.value.where == f"{path}, line 14"


def test_a_file_that_a_run_file_names_needs_consent(tmp_path: Path) -> None:
    path = write(tmp_path, f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n" + MINE)
    with pytest.raises(InputError) as raised:
        load_allowed(path, allowed=False)
    assert "--allow-method-file" in raised.value.fix
    assert not (tmp_path / "ran").exists()
    assert load_allowed(path, allowed=True) == ["squared_hinge"]
    assert (tmp_path / "ran").exists()


def test_a_hyperparameter_with_the_name_of_a_training_key_is_refused(tmp_path: Path) -> None:
    """train.share would select pairs, and the hyperparameter would keep its default without a word."""
    with pytest.raises(InputError, match="name of a key of") as caught:
        load_file(write(tmp_path, MINE.replace("slack", "share")))
    assert "share" in caught.value.found
    assert "squared_hinge" not in METHODS


def test_no_method_has_a_hyperparameter_with_the_name_of_a_training_key() -> None:
    for name in METHODS:
        assert not methods.accepted(name) & Train.model_fields.keys(), name
