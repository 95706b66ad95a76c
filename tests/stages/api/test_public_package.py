"""`import scoreonce`: what it offers, and that the example of docs/python.md runs and prints nothing of its own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scoreonce
from scoreonce.stages.demo import model as demo_model

ROOT = Path(__file__).resolve().parents[3]
WORDS = ("a letter", "the harbour", "my garden", "an old boat", "warm bread")
RUN_FILE = """
out = "out"
[data]
source = "pairs.jsonl"
test_share = 0.25
[reference]
model = "model"
[compute]
device = "cpu"
[train]
batch_pairs = 8
max_steps = 2
"""


def examples() -> list[str]:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty pairs, one row that cannot be used, a tiny model, and the run file of the example."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCOREONCE_CACHE", str(tmp_path / "cache"))
    rows = [
        {"prompt": f"Write about {WORDS[i % 5]}, number {i}:", "chosen": f" {WORDS[i % 5]} is good", "rejected": " no"}
        for i in range(40)
    ]
    texts = [row["prompt"] + row["chosen"] + row["rejected"] for row in rows]
    demo_model.write(Path("model"), texts, hidden=16, layers=1, seed=0)
    rows.append({"prompt": "p", "chosen": "", "rejected": "x"})
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("run.toml").write_text(RUN_FILE)
    return tmp_path


def test_everything_named_is_there_and_documented() -> None:
    for name in scoreonce.__all__:
        assert getattr(scoreonce, name).__doc__, name
    assert set(scoreonce.__all__) <= set(dir(scoreonce))
    with pytest.raises(AttributeError, match="scorre"):
        _ = scoreonce.scorre


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import scoreonce, sys; scoreonce.__version__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "polars", "pyarrow", "transformers", "numpy"} & set(loaded)


def test_the_version_is_that_of_the_package() -> None:
    assert f'version = "{scoreonce.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_example_runs_and_only_the_example_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(examples()[0], names)
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.startswith("PairCounts(") or "train" in shown.out.splitlines()[0]
    assert shown.out.count("beta 0.") == 2
    assert "sides_are_identical" not in shown.out
    assert "chosen_is_blank" in shown.out
    assert (folder / "out/train/beta-0.05/model/model.safetensors").is_file()


def test_the_example_on_tensors_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """Margins 1 - 0 = 1 and 0 - 1 = -1: losses -log sigmoid(+-0.1) = 0.6444 and 0.7444; d/d chosen of their mean is
    -beta sigmoid(-+0.1) / 2 = -0.0238 and -0.0262.
    """
    exec(examples()[1], {})
    numbers = [float(x) for x in re.findall(r"-?\d+\.\d+", capsys.readouterr().out)]
    assert numbers[:2] == pytest.approx([0.6444, 0.7444], abs=1e-4)
    assert numbers[-2:] == pytest.approx([-0.0238, -0.0262], abs=1e-4)


def test_verbose_shows_messages_and_bars_and_ends(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = scoreonce.Run.load("run.toml")
    scoreonce.verbose()
    try:
        scoreonce.prepare(run)
        shown = capsys.readouterr()
        assert "41 rows: " in shown.out
        assert "Preparing" in shown.err
    finally:
        scoreonce.verbose(False)
    scoreonce.score(run)
    assert capsys.readouterr() == ("", "")


def test_settings_replace_keys_and_are_checked() -> None:
    run = scoreonce.Run.model_validate({"out": "o", "data": {"source": "s"}, "reference": {"model": "m"}})
    changed = run.replace({"train.beta": 0.05, "data.limit": 7})
    assert (changed.train.hyperparameters, changed.data.limit, run.data.limit) == ({"beta": 0.05}, 7, None)
    with pytest.raises(scoreonce.InputError, match=r"data\.sauce.*Did you mean 'data.source'") as error:
        run.replace({"data.sauce": "x"})
    assert error.value.where == "the settings given"
