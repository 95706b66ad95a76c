"""`scoreonce doctor` as a whole, on the machine that runs the tests."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import tomli_w

from scoreonce.stages import cli
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.doctor import examination, machine, text, wanted
from scoreonce.stages.doctor.stores import stores_of
from scoreonce.stages.score import stage as score


@pytest.fixture
def run_file(world, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(world.run().model_dump(exclude_none=True, exclude_unset=True)))
    return str(path)


def test_a_machine_that_runs_the_tests_has_no_errors(capsys):
    assert cli.run_command(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("scoreonce  0.")
    for name in ("packages", "torch", "CPU", "attention", "memory", "disk"):
        assert f"\n{name} " in out
    assert "error: " not in out


def test_what_stops_a_stage_is_exit_code_3(run_file, monkeypatch, capsys):
    assert cli.run_command(["doctor", run_file]) == 0
    assert "store      none yet in " in capsys.readouterr().out
    sound = machine.disk
    monkeypatch.setattr(machine, "disk", lambda *place: replace(sound(*place), writable=False))
    assert cli.run_command(["doctor", run_file]) == 3
    out = capsys.readouterr().out
    assert "error: out (" in out
    assert "\n  do: Change the permissions" in out


def test_json_has_the_facts_and_the_findings(run_file, capsys):
    assert cli.run_command(["doctor", run_file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"scoreonce", "facts", "attention", "findings"}
    assert found["facts"]["wanted"]["device"] == "cpu"
    assert found["facts"]["torch"]["threads"] >= 1
    assert {package["name"] for package in found["facts"]["packages"]} >= {"torch", "polars", "peft"}
    assert {path["layout"] for path in found["attention"]} == {"packed", "shared", "padded", "flex", "flash"}


def test_overrides_need_a_run_file(capsys):
    assert cli.run_command(["doctor", "--set", "out=x"]) == 2
    assert "Give the run file too" in capsys.readouterr().err


@pytest.mark.slow
def test_no_model_library_is_imported(run_file):
    """transformers and datasets take seconds to import: their versions are read from metadata."""
    code = (
        "import sys; from scoreonce.stages import cli; cli.run_command(sys.argv[1:]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, "doctor", run_file], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "torch" in loaded
    assert not {"transformers", "datasets", "accelerate", "polars", "peft"} & loaded


def test_the_health_of_a_store(world, capsys):
    """Three shards of 16 completions: one is cut, one has lost its sidecar, one leads to a file that was set aside."""
    world.prepare(world.random_pairs(20))
    score.score(world.run())
    [health] = stores_of(world.paths).stores
    assert (health.model, health.files, health.completions) == (str(world.model()), 3, 40)
    assert (health.damaged, health.leftovers, health.set_aside) == ((), 0, 0)
    folder = world.paths.store / health.key
    first, second, third = sorted((folder / "shards").glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-1])
    second.with_suffix(".json").unlink()
    (folder / "damaged").mkdir()
    for path in (third, third.with_suffix(".json")):
        path.rename(folder / "damaged" / path.name)
    [health] = stores_of(world.paths).stores
    assert health.files == 1
    assert (health.damaged, health.leftovers, health.set_aside) == ((f"shards/{first.name}",), 1, 1)
    (folder / "identity.json").write_text("{")
    [health] = stores_of(world.paths).stores
    assert health.damaged == ("identity.json", f"shards/{first.name}")
    found = examination.examine(world.run())
    shown = "\n".join(text.lines(found))
    assert "2 damaged, 1 unfinished, 1 set aside" in shown
    assert not found.stops


def test_what_a_run_file_asks_for(world):
    run = world.run(
        data={"source": "s3://bucket/pairs.jsonl", "test_source": "hf://datasets/a/b"},
        reference={"dtype": "bfloat16", "quantization": "nf4"},
        compute={"compile": True},
        score={"engine": "ray"},
        train={"lora_rank": 4, "dtype": "float32", "optimizer": "adamw_torch_8bit", "log_with": ["mlflow", "aim"]},
    )
    asked = wanted.wanted(run)
    assert (asked.device, asked.compiles, asked.dtypes) == ("cpu", True, ("bfloat16", "float32"))
    assert asked.weights == sum(path.stat().st_size for path in world.model().glob("*.safetensors"))
    assert dict(asked.packages) == {
        "peft": "train.lora_rank",
        "bitsandbytes": "reference.quantization = 'nf4'",
        "torchao": "train.optimizer = 'adamw_torch_8bit'",
        "ray": 'score.engine = "ray"',
        "s3fs": "data.source = 's3://bucket/pairs.jsonl'",
        "mlflow-skinny": "train.log_with = 'mlflow'",
    }
    assert wanted.wanted(world.run()).packages == {}
    assert wanted.wanted(world.run(audit={"engine": "ray"})).packages == {"ray": 'audit.engine = "ray"'}
    other = {"plus": {"model": "m", "adapter": "a"}, "minus": {"model": "m", "quantization": "nf4"}}
    further = wanted.wanted(world.run(reference={"other": other}))
    assert dict(further.packages) == {
        "peft": "reference.other.plus.adapter",
        "bitsandbytes": "reference.other.minus.quantization = 'nf4'",
    }


def test_a_store_at_an_address_is_not_looked_at(world):
    run = world.run(score={"store": "s3://bucket/store"})
    assert stores_of(RunPaths.of(run)).address == "s3://bucket/store"
    assert "none yet in" in "\n".join(text.lines(examination.examine(run)))
