"""Training through the stage: what it writes, and that nothing about how it runs changes the result."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import tomli_w
import torch
from accelerate import Accelerator
from killed_training import dying, dying_before, dying_in_update
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from scoreonce.pipeline import methods
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.training.optimizer import Masters
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import StepPair
from scoreonce.stages import config
from scoreonce.stages.common import files
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.evaluate import stage as evaluate
from scoreonce.stages.report import stage as report
from scoreonce.stages.score import stage as score
from scoreonce.stages.train import data as training_data
from scoreonce.stages.train import estimate as train_estimate
from scoreonce.stages.train import stage as train
from scoreonce.stages.train.step_log import StepLog
from scoreonce.stages.train.trainer import Trainer

FAST = {"learning_rate": 1e-3, "batch_pairs": 8, "max_steps": 6, "checkpoint_every": 2}


@pytest.fixture
def prepared(world):
    """A world of 40 training pairs, scored."""
    world.prepare(world.random_pairs(40), world.random_pairs(8, seed=1))
    score.score(world.run())
    return world


def training(world, method, label=None, **settings):
    run = world.run(train={**FAST, "method": method, "label": label or method, **settings})
    train.train(run, allow_method_file=True)
    return RunPaths.of(run)


def weights(paths):
    return load_file(paths.policy / "model.safetensors")


def metrics(paths):
    return [json.loads(line) for line in (paths.training / "metrics.jsonl").read_text().splitlines()]


def assert_equal(left, right, tolerance=0.0):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "method", ["dpo", "beta_dpo", "minor_dpo", "ipo", "hinge", "simpo", "alpha_dpo", "sft", "minor_sft"]
)
def test_first_loss_and_outputs(prepared, method):
    """With policy = reference every logistic method starts at log 2, IPO at (1 / (2 beta))^2 = 25, hinge at 1."""
    paths = training(prepared, method, max_steps=2)
    first = metrics(paths)[0]
    expected = {"dpo": math.log(2), "beta_dpo": math.log(2), "minor_dpo": math.log(2), "ipo": 25.0, "hinge": 1.0}
    if method in expected:
        assert first["loss"] == pytest.approx(expected[method], abs=1e-4)
    assert all(math.isfinite(value) for line in metrics(paths) for value in line.values())
    steps = pl.read_parquet(paths.training / "steps.parquet")
    assert steps.height == 16
    StepPair.validate(steps)
    assert pl.read_parquet(paths.training / "metrics.parquet")["step"].to_list() == [1, 2]
    card = (paths.policy / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "learning_rate" in card


def test_the_step_log_has_the_margin_that_the_loss_saw(prepared):
    """Under js the loss is of log(2 u_w / (1 + u_w)) - log(2 u_l / (1 + u_l)); of DPO the margin itself."""
    f_dpo = pl.read_parquet(training(prepared, "f_dpo").training / "steps.parquet")
    expected = (-f_dpo["loss"]).exp()  # sigmoid(beta linked margin)
    assert f_dpo["linked_margin"].to_list() == pytest.approx(((expected / (1 - expected)).log() / 0.1).to_list())
    assert (f_dpo["linked_margin"] - f_dpo["margin"]).abs().max() > 1e-3
    dpo = pl.read_parquet(training(prepared, "dpo").training / "steps.parquet")
    assert dpo["linked_margin"].is_null().all()
    assert dpo["margin"].is_not_null().all()


def test_training_lowers_the_loss(prepared):
    lines = metrics(training(prepared, "dpo", max_steps=20, shuffle=False, scheduler="constant"))
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert lines[-1]["rewards/accuracies"] == 1.0


@pytest.mark.parametrize("method", ["dpo", "beta_dpo", "alpha_dpo"])
def test_micro_batches_do_not_change_the_weights(prepared, method):
    """1, some and 8 micro-batches a step."""
    results = []
    for budget in (100_000, 90, 1):
        run = prepared.run(
            train={**FAST, "method": method, "label": f"{method}{budget}"}, compute={"tokens_per_microbatch": budget}
        )
        train.train(run)
        results.append((weights(RunPaths.of(run)), metrics(RunPaths.of(run))))
    for other, lines in results[1:]:
        assert_equal(results[0][0], other, tolerance=2e-5)
        for mine, theirs in zip(results[0][1], lines, strict=True):
            assert mine["beta/mean"] == pytest.approx(theirs["beta/mean"], rel=1e-5)
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


@pytest.mark.parametrize("method", ["dpo", "beta_dpo", "alpha_dpo"])
@pytest.mark.parametrize("killed_in_step", [1, 4, 6])
def test_killed_and_resumed_equals_uninterrupted(prepared, method, killed_in_step):
    whole = training(prepared, method, "whole")
    with dying_in_update(killed_in_step):
        training(prepared, method, "killed")
    resumed = training(prepared, method, "killed")
    assert_equal(weights(whole), weights(resumed))
    timeless = [
        [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in metrics(paths)]
        for paths in (whole, resumed)
    ]
    assert timeless[0] == timeless[1]
    assert pl.read_parquet(whole.training / "steps.parquet").equals(pl.read_parquet(resumed.training / "steps.parquet"))


def test_killed_while_writing_a_checkpoint(prepared):
    """A checkpoint that was not finished does not exist."""
    from scoreonce.stages.train import checkpoint

    def of_the_fourth(path, value):
        return path.name == "state.json" and value["step"] == 4

    whole = training(prepared, "dpo", "whole")
    with dying(checkpoint.files, "write_json", of_the_fourth):
        training(prepared, "dpo", "killed")
    killed = RunPaths.of(prepared.run(train={"label": "killed"}))
    assert [path.name for path in (killed.training / "checkpoints").iterdir()] == ["step-000002"]
    assert_equal(weights(whole), weights(training(prepared, "dpo", "killed")))


def test_sigterm_writes_a_checkpoint_first(prepared, monkeypatch):
    honest = train.Trainer.take

    def signalled(self, step, *rest):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(self, step, *rest)

    monkeypatch.setattr(train.Trainer, "take", signalled)
    with pytest.raises(SystemExit) as stopped:
        training(prepared, "dpo", "stopped", checkpoint_every=100)
    assert stopped.value.code == 143
    monkeypatch.setattr(train.Trainer, "take", honest)
    assert (RunPaths.of(prepared.run(train={"label": "stopped"})).training / "checkpoints" / "step-000003").is_dir()
    assert_equal(
        weights(training(prepared, "dpo", "whole", checkpoint_every=100)),
        weights(training(prepared, "dpo", "stopped", checkpoint_every=100)),
    )


def test_the_reference_is_never_called(prepared, monkeypatch):
    """Method, beta, learning rate and batch size change; every forward of training is the policy's, on its own rows."""
    forwards = []
    honest = TokenScorer.forward

    def counting(self, rows, **options):
        forwards.append(len(rows))
        return honest(self, rows, **options)

    monkeypatch.setattr(TokenScorer, "forward", counting)
    settings = [
        ("dpo", {}),
        ("dpo", {"beta": 0.5}),
        ("ipo", {}),
        ("dpo", {"learning_rate": 5e-4}),
        ("dpo", {"batch_pairs": 4, "max_steps": 12}),
    ]
    for number, (method, changes) in enumerate(settings):
        forwards.clear()
        training(prepared, method, f"run{number}", verify_pairs=0, **changes)
        # The probe takes three forwards; each pair of each step takes part in exactly one.
        assert sum(forwards[3:]) == 48


def test_training_goes_on_without_the_reference(prepared, tmp_path):
    """The cache is enough: the policy starts elsewhere and the reference's folder is gone."""
    reference = tmp_path / "model"
    elsewhere = prepared.model("other", seed=5)
    reference.rename(tmp_path / "away")
    run = prepared.run(train={**FAST, "model": str(elsewhere)}, reference={"model": str(reference)})
    # the manifest knows the reference by this name
    (tmp_path / "model").mkdir() if False else None
    train.train(run)
    assert RunPaths.of(run).policy.is_dir()


def test_done_is_done_and_another_run_needs_another_label(prepared, capsys):
    paths = training(prepared, "dpo", "one")
    stamp = (paths.policy / "model.safetensors").stat().st_mtime_ns
    training(prepared, "dpo", "one")
    assert "up to date" in capsys.readouterr().out
    with pytest.raises(InputError, match="Another training run has its outputs under this label") as caught:
        training(prepared, "dpo", "one", learning_rate=1e-4, beta=0.5)
    assert [line.strip() for line in caught.value.found.splitlines()] == [
        "method.hyperparameters.beta: trained with 0.1, now 0.5",
        "train.learning_rate: trained with 0.001, now 0.0001",
    ]
    assert (paths.policy / "model.safetensors").stat().st_mtime_ns == stamp
    train.train(prepared.run(train={**FAST, "label": "one", "learning_rate": 1e-4}), restart=True)
    assert (paths.policy / "model.safetensors").stat().st_mtime_ns != stamp


def test_a_run_of_the_version_before_is_known_and_named(prepared, capsys):
    """Its lineage, format 1, has no settings of `prepare`; the digests of the prepared files decide."""
    paths = training(prepared, "dpo", "one")
    tree = files.read_json(paths.lineage)
    assert (tree["format"], tree["data"]["config"]["max_length"]) == (2, 64)
    old = {**tree, "format": 1, "data": {name: part for name, part in tree["data"].items() if name != "config"}}
    files.write_json(paths.lineage, old)
    training(prepared, "dpo", "one")
    assert "up to date" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"method\.hyperparameters\.beta: trained with 0.1, now 0.5"):
        training(prepared, "dpo", "one", beta=0.5)
    files.write_json(paths.lineage, {**old, "format": 7})
    with pytest.raises(InputError, match=r"(?s)another version.*format 7; .*scoreonce train"):
        training(prepared, "dpo", "one")


def test_other_pairs_under_the_same_label_are_named(prepared):
    """Prepared and scored anew, one pair more: counts, ids and files differ, under the lineage that names the old."""
    training(prepared, "dpo", "one")
    prepared.prepare(prepared.random_pairs(41), prepared.random_pairs(8, seed=1))
    score.score(prepared.run())
    with pytest.raises(InputError) as caught:
        training(prepared, "dpo", "one")
    assert "data.pairs: trained with 40, now 41" in caught.value.found
    assert "data.files.train.parquet: trained with" in caught.value.found


def test_a_start_from_another_model_of_the_same_weights_is_the_same_run(prepared, tmp_path, capsys):
    training(prepared, "dpo", "one")
    copy = shutil.copytree(prepared.model(), tmp_path / "copy")
    training(prepared, "dpo", "one", model=str(copy))
    assert "up to date" in capsys.readouterr().out


def test_checkpoints_keep_the_last(prepared):
    paths = training(prepared, "dpo", keep_checkpoints=1)
    assert [path.name for path in (paths.training / "checkpoints").iterdir()] == ["step-000006"]
    names = {path.suffix for path in (paths.training / "checkpoints").rglob("*") if path.is_file()}
    assert names == {".json", ".safetensors"}


def test_half_precision_trains_float32_masters(prepared, world):
    """A step of 1e-5 of a weight is lost in bfloat16; the masters keep it."""
    run = world.run(train={**FAST, "learning_rate": 1e-5, "scheduler": "constant"}, reference={"dtype": "bfloat16"})
    score.score(run)
    train.train(run)
    masters = load_file(RunPaths.of(run).training / "checkpoints/step-000006/weights.safetensors")
    start = load_file(world.model() / "model.safetensors")
    saved = weights(RunPaths.of(run))
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in masters.values()} == {torch.float32}
    moved = [not torch.equal(masters[name], start[name].bfloat16().float()) for name in start if name in masters]
    assert all(moved)
    assert abs(metrics(RunPaths.of(run))[0]["loss"] - math.log(2)) < 0.05


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_lora_trains_an_adapter_that_evaluates_as_it_trained(prepared):
    """Only the matrices are trained and saved; resumed they are the same; evaluate adds them to their base."""
    run = prepared.run(train={**FAST, "lora_rank": 4, "label": "lora"})
    train.train(run)
    paths = RunPaths.of(run)
    adapter = load_file(paths.policy / "adapter_model.safetensors")
    assert all("lora_" in name for name in adapter)
    assert any(tensor.abs().max() > 0 for name, tensor in adapter.items() if "lora_B" in name)
    assert metrics(paths)[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    evaluate.evaluate(run)
    pairs = pl.read_parquet(paths.evaluation / "pairs.parquet")
    assert pairs["margin"].abs().max() > 1e-3
    expected = LlamaForCausalLM.from_pretrained(prepared.model())
    merged = PeftModel.from_pretrained(expected, paths.policy).merge_and_unload().eval()
    prompt, chosen, _ = prepared.random_pairs(8, seed=1)[0]
    with torch.no_grad():
        logps = merged(torch.tensor([prompt + chosen])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
    ours = pairs.filter(pl.col("chosen_len") == len(chosen))["policy_chosen_logps"].to_list()
    total = logps.gather(1, torch.tensor(chosen)[:, None]).sum().item()
    assert min(abs(value - total) for value in ours) < 1e-4


def test_lora_without_a_target(prepared):
    assert "q_proj" in expect(prepared, "LoRA finds nothing", lora_rank=4, lora_targets=["nowhere"]).fix


def test_lora_on_the_output_head_is_refused(prepared):
    """Its matrices would be saved and never trained."""
    error = expect(prepared, "LoRA cannot adapt the output head", lora_rank=4, lora_targets=["q_proj", "lm_head"])
    assert error.found == "lm_head in lora_targets"


def test_gradient_checkpointing_changes_nothing(prepared):
    assert_equal(
        weights(training(prepared, "dpo", "plain")),
        weights(training(prepared, "dpo", "saving", gradient_checkpointing=True)),
        1e-6,
    )


@pytest.mark.parametrize(
    ("optimizer", "package"),
    [
        ("adamw_torch_fused", "torch"),
        ("adafactor", "torch"),
        ("sgd", "torch"),
        ("rmsprop", "torch"),
        pytest.param("adamw_torch_8bit", "torchao", marks=pytest.mark.slow),  # compiles its step
        ("adamw_bnb_8bit", "bitsandbytes"),
        ("paged_adamw_8bit", "bitsandbytes"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Paged optimizers are not supported on CPU")
def test_other_optimizers_resume_exactly(prepared, optimizer, package):
    pytest.importorskip(package)
    # 97 * 64 weights of the embedding: those of 8 bits leave tensors of fewer than 4,096 as they are
    wide = str(prepared.model("wide", hidden_size=64))
    settings = {"optimizer": optimizer, "max_steps": 4, "model": wide}
    whole = training(prepared, "dpo", "whole", **settings)
    with dying_before(4):
        training(prepared, "dpo", "killed", **settings)
    assert_equal(weights(whole), weights(training(prepared, "dpo", "killed", **settings)))


def test_an_offloaded_optimizer_trains_the_same_policy_and_resumes(prepared):
    """Killed in step 4 and resumed without offloading: where the optimizer steps is no part of the run."""
    settings = {**FAST, "method": "dpo", "max_steps": 4}
    whole = prepared.run(train={**settings, "label": "whole"})
    train.train(whole)
    offloaded = prepared.run(train={**settings, "label": "offloaded"}, compute={"offload_optimizer": True})

    def in_the_fourth(trainer, step, *_):
        masters = trainer.training.masters
        assert all(mine is not copy for mine, copy in zip(masters.parameters, masters.masters, strict=True))
        return step == 4

    with dying(train.Trainer, "take", in_the_fourth):
        train.train(offloaded)
    train.train(offloaded.replace({"compute.offload_optimizer": False}))
    assert_equal(weights(RunPaths.of(whole)), weights(RunPaths.of(offloaded)))


def test_shuffle_off_keeps_the_order(prepared):
    paths = training(prepared, "dpo", shuffle=False, max_steps=6)
    seen = pl.read_parquet(paths.training / "steps.parquet")["pair_id"].to_list()
    order = pl.read_parquet(paths.pairs("train"))["pair_id"].to_list()
    assert seen == order + order[:8]


TWO_PROCESSES = """
import json, sys
from accelerate import Accelerator
from scoreonce.stages.train import stage as train
from scoreonce.stages.config import Run

assert Accelerator(cpu=True).num_processes == 2
for tree in json.loads(sys.argv[1]):
    train.train(Run.model_validate(tree))
"""


@pytest.mark.slow
def test_two_processes_train_the_same_policy(prepared):
    """Two gloo processes against one; one launch trains one method after the other.

    By torchrun: `accelerate launch --cpu` starts a single process, whatever --num_processes says.
    """
    score.score(prepared.run(score={"mismatched": True, "full_vocab": "hidden"}))
    methods = ("dpo", "beta_dpo", "alpha_dpo", "bco", "aot", "kto", "tdpo2")  # the last reads stored hidden states
    methods += ("dr_dpo", "kl_dpo", "amapo", "gamma_simpo", "humanline")
    settings = {**FAST, "max_steps": 4}
    two = [prepared.run(train={**settings, "method": name, "label": f"{name}-two"}) for name in methods]
    path = prepared.folder / "two.py"
    path.write_text(TWO_PROCESSES)
    launch = "-m torch.distributed.run --standalone --nproc_per_node 2"
    done = subprocess.run(
        [sys.executable, *launch.split(), str(path), json.dumps([run.model_dump(exclude_none=True) for run in two])],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name, run in zip(methods, two, strict=True):
        one = training(prepared, name, f"{name}-one", max_steps=4)
        assert_equal(weights(one), weights(RunPaths.of(run)), 2e-5)
        for mine, theirs in zip(metrics(one), metrics(RunPaths.of(run)), strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5), name


SPELLED_OUT = {
    "ipo+batch_beta+gaussian_gap": """objective = "ipo"\ncalibration = "batch_beta"\nselection = "gaussian_gap" """,
    "kto+batch_beta+gaussian_gap": """method = "kto"\ncalibration = "batch_beta"\nselection = "gaussian_gap" """,
    "tdpo2+batch_beta+gaussian_gap": """method = "beta_dpo"\nobjective = "tdpo2" """,
    "ipo+perturbed_beta": """objective = "ipo"\ncalibration = "perturbed_beta"\nstep_dtype = "bf16"\nepsilon = 0.02 """,
    "dpo+alpha_margin": """method = "dpo"\ncalibration = "alpha_margin"\nalpha = 0.1 """,
}


@pytest.mark.parametrize("name", SPELLED_OUT)
def test_a_composition_spelled_out_in_a_run_file(prepared, name):
    run = prepared.run(score={"mismatched": True})
    score.score(run)
    path = prepared.folder / "composed.toml"
    train_section = f"""
[train]
{SPELLED_OUT[name]}
full_vocab = "live"
learning_rate = 1e-3
batch_pairs = 8
max_steps = 2
"""
    tree = run.model_dump(include={"out", "data", "reference", "compute", "score"}, exclude_none=True)
    path.write_text(tomli_w.dumps(tree) + train_section)
    run = config.load(path)
    train.train(run)
    paths = RunPaths.of(run)
    record = json.loads((paths.training / "lineage.json").read_text())
    assert record["method"]["name"] == name
    assert all(math.isfinite(value) for line in metrics(paths) for value in line.values())
    assert (metrics(paths)[0]["selection/kept"] == 0.75) is ("gaussian_gap" in name)  # 6 of 8


@pytest.mark.usefixtures("forgets_methods")
def test_a_method_from_a_file(prepared, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("""
from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.pieces.registry import objective


@objective()
def squared(margin):
    return (margin - 1) ** 2


method("squared_margin", "a test", paper=None, objective=squared)
""")
    paths = training(prepared, "squared_margin", method_file=str(path), max_steps=2)
    assert "running the code of" in capsys.readouterr().err
    assert metrics(paths)[0]["loss"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.usefixtures("forgets_methods")
def test_the_documented_method_trains_evaluates_and_is_reported(prepared, tmp_path):
    """The worked example of docs/method-file.md as it stands there. Policy = reference: max(0, 1 - 0)^2 = 1."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "method-file.md").read_text(encoding="utf-8")
    example = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "squared_hinge" in block)
    path = tmp_path / "mine.py"
    path.write_text(example, encoding="utf-8")
    assert len(example.splitlines()) <= 60
    run = prepared.run(train={**FAST, "method": "squared_hinge", "method_file": str(path)})
    train.train(run, allow_method_file=True)
    assert metrics(RunPaths.of(run))[0]["loss"] == pytest.approx(1.0, abs=1e-4)
    evaluate.evaluate(run)
    report.report(run)
    assert "squared_hinge" in RunPaths.of(run).report.read_text(encoding="utf-8")


def test_micro_batch_scope_needs_a_method_with_statistics(prepared):
    assert metrics(training(prepared, "beta_dpo", scope="microbatch", microbatch_pairs=4))
    assert "nothing for a micro-batch scope" in str(expect(prepared, "no statistics over a batch", scope="microbatch"))


# What users get wrong


def expect(world, match, **settings):
    with pytest.raises(InputError, match=match) as raised:
        train.train(world.run(train={**FAST, **settings}))
    return raised.value


def test_not_prepared(world):
    assert "scoreonce prepare" in expect(world, "pairs are not prepared").fix


def test_not_scored(world):
    world.prepare(world.random_pairs(10))
    assert "scoreonce score" in expect(world, "no reference scores").fix


def test_a_method_without_reference_needs_no_store(world):
    world.prepare(world.random_pairs(10))
    assert weights(training(world, "simpo", max_steps=1))


def test_completion_only_data_has_no_rejected_side(world):
    world.prepare([(p, c, None) for p, c, _ in world.random_pairs(10)])
    assert weights(training(world, "sft", max_steps=1))
    assert "no value for 10 of 10 pairs" in expect(world, "needs rejected_id", method="simpo").found


SCORED = {"method": "odpo", "max_steps": 1}


@pytest.mark.parametrize(
    ("chosen", "match", "found"),
    [
        (None, "needs chosen_score, and the data lacks it", "1 of 40"),
        (math.inf, "chosen_score is not a finite number everywhere", "1 of 40"),
        (math.nan, "chosen_score is not a finite number everywhere", "1 of 40"),
        (1.0, "takes the logarithm of r_w - r_l", "1 of 40"),
    ],
)
def test_scores_are_checked_before_training(prepared, chosen, match, found, monkeypatch):
    """The last pair's is missing, not finite, or no higher than the rejected one's; no model is loaded for that."""
    rewrite_pairs(prepared, chosen_score=[2.0] * 39 + [chosen], rejected_score=[1.0] * 40)
    monkeypatch.setattr(train.Trainer, "build", None)
    assert found in expect(prepared, match, **SCORED).found


def test_odpo_trains_where_scores_are_there(prepared):
    rewrite_pairs(prepared, chosen_score=[2.0] * 40, rejected_score=[1.0] * 40)
    assert metrics(training(prepared, **SCORED))[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # log(2 - 1) = 0


def rewrite_pairs(world, **columns):
    """Other values in prepared pairs, with a manifest that matches."""
    path, manifest = world.paths.pairs("train"), world.paths.pairs_manifest
    table = pl.read_parquet(path).with_columns(
        *(pl.Series(name, values, pl.Float64, strict=False) for name, values in columns.items())
    )
    files.write_parquet(path, table.to_arrow(compat_level=pl.CompatLevel.oldest()))
    content = files.read_json(manifest)
    files.write_json(manifest, {**content, "files": {**content["files"], path.name: files.sha256(path)}})


def test_scored_with_other_weights_or_dtype(prepared):
    other = prepared.model("other", seed=3)
    with pytest.raises(InputError, match=r"(?s)another reference.*reference\.weights: scored with .*, now "):
        train.train(prepared.run(train=FAST, reference={"model": str(other)}))
    with pytest.raises(InputError, match=r'reference\.dtype: scored with "float32", now "bfloat16"'):
        train.train(prepared.run(train=FAST, reference={"dtype": "bfloat16"}))


def test_a_flipped_bit_in_the_columns(prepared):
    path = prepared.paths.reference("train")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert str(path) in expect(prepared, "not what `scoreonce score` wrote").where


def test_a_cache_that_disagrees_is_refused(prepared):
    """One nat per pair off, with a manifest that matches: only scoring again can tell."""
    path, manifest = prepared.paths.reference("train"), prepared.paths.reference_manifest
    table = pl.read_parquet(path).with_columns(pl.col("ref_chosen_logps") - 1.0)
    files.write_parquet(path, table.to_arrow())
    files.write_json(
        manifest,
        {**files.read_json(manifest), "files": {**files.read_json(manifest)["files"], path.name: files.sha256(path)}},
    )
    assert "nats per token" in expect(prepared, "its log-probs are not the cached ones").found


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"optimizer": "adamw_torhc"}, "No such optimizer"),
        ({"scheduler": "linaer"}, "No such schedule"),
        ({"learning_rate": 1e30, "scheduler": "constant", "max_grad_norm": 0}, "Training diverged"),
        ({"method": "dop"}, "dpo"),
        ({"betta": 0.1}, "betta"),
    ],
)
def test_bad_settings(prepared, settings, match):
    expect(prepared, match, **settings)


def test_trackers_are_checked_before_training(prepared, monkeypatch):
    assert "Did you mean 'tensorboard'" in expect(prepared, "No such tracker", log_with=["tensorbord"]).found
    monkeypatch.setattr(train, "get_available_trackers", list)
    assert "pip install wandb" in expect(prepared, "not installed", log_with=["wandb"]).fix


@pytest.mark.parametrize(("training", "place"), [(False, "before the first step"), (True, "a training step")])
def test_too_little_gpu_memory_names_a_smaller_budget(prepared, monkeypatch, training, place):
    """Memory runs out in the check against the cache, or in the first step after it."""

    def exhausted(self, rows, **options):
        if torch.is_grad_enabled() == training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
        return honest(self, rows, **options)

    def built(*inputs):
        made = build(*inputs)
        monkeypatch.setattr(TokenScorer, "forward", exhausted)
        return made

    honest, build = TokenScorer.forward, train.Trainer.build
    monkeypatch.setattr(train.Trainer, "build", built)
    error = expect(prepared, "The GPU ran out of memory; checkpoints stay")
    assert error.found == "CUDA out of memory. Tried to allocate 2 GiB."
    assert error.where == f"{place}, with micro-batches of up to 512 tokens"
    assert "--set compute.tokens_per_microbatch=256" in error.fix


def test_cuda_asked_for_and_absent(prepared):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="CUDA was asked for"):
        train.train(prepared.run(train=FAST, compute={"device": "cuda"}))


def test_a_checkpoint_of_another_format_is_refused(prepared):
    paths = training(prepared, "dpo", max_steps=2)
    state = paths.training / "checkpoints/step-000002/state.json"
    files.write_json(state, files.read_json(state) | {"format": 0})
    manifest = state.with_name("manifest.json")
    tree = files.read_json(manifest)
    files.write_json(manifest, tree | {"files": tree["files"] | {state.name: files.sha256(state)}})
    shutil.rmtree(paths.policy)
    with pytest.raises(InputError, match="format that this version") as raised:
        training(prepared, "dpo", max_steps=2)
    assert raised.value.found == "format 0; this version reads format 1 and 2"
    assert "--restart" in raised.value.fix


def test_parameters_without_a_gradient_so_far_are_resumed(tmp_path):
    """As experts that no token was routed to: the optimizer has no state for them."""
    from scoreonce.stages.train import checkpoint

    def built():
        model = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 2), "unused": torch.nn.Linear(2, 2)})
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
        return checkpoint.Training(model, Masters.of(model.parameters()), optimizer, scheduler)

    folder = tmp_path / "checkpoints"
    before, after = built(), built()
    before.model["used"](torch.ones(1, 2)).sum().backward()
    before.optimizer.step()
    step, state = checkpoint.restore(
        checkpoint.save(folder, before, 1, {"m": torch.tensor(0.5)}, keep=1, inside=folder), after
    )
    assert (step, float(state["m"])) == (1, 0.5)
    assert_equal(before.model.state_dict(), after.model.state_dict())
    kept = [after.optimizer.state[parameter] for parameter in after.model["used"].parameters()]
    assert all(entries["step"] == 1 for entries in kept)
    assert not any(after.optimizer.state[parameter] for parameter in after.model["unused"].parameters())


def test_a_step_log_without_a_newer_column_is_finished(prepared):
    """A run that an earlier version began: `linked_margin` is null in what it wrote."""
    paths = training(prepared, "dpo", max_steps=2)
    part = next((paths.training / "steps").glob("*.parquet"))
    older = pl.read_parquet(part).drop("linked_margin")
    older.write_parquet(part)
    StepLog(paths.training, 2, inside=paths.out).finish()
    whole = pl.read_parquet(paths.training / "steps.parquet")
    assert whole.drop("linked_margin").equals(older)
    assert whole["linked_margin"].is_null().all()
    StepPair.validate(whole)


def flip(path, at=-1):
    """One bit changed, and the file's date kept, as by a disk."""
    before, contents = path.stat(), bytearray(path.read_bytes())
    contents[at] ^= 1
    path.write_bytes(contents)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        ("checkpoints/step-000006/weights.safetensors", "step-000006: weights.safetensors is not what was written"),
        ("checkpoints/step-000006/optimizer.safetensors", "step-000006: optimizer.safetensors is not what"),
        ("checkpoints/step-000006/manifest.json", "step-000006: manifest.json: the contents do not have the checksum"),
        ("steps/00000005-00000006.parquet", "step-000006: steps/00000005-00000006.parquet is not what was written"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(prepared, damaged, said, capsys):
    """The policy is lost with it: step 5 and 6 are taken again, from the checkpoint of step 4, to the same weights."""
    paths = training(prepared, "dpo")
    # Copies: tensors are read by memory map, and the file is about to change.
    before = {name: tensor.clone() for name, tensor in weights(paths).items()}
    logged = pl.read_parquet(paths.training / "steps.parquet")
    flip(paths.training / damaged, -9)
    flip(paths.policy / "model.safetensors")
    training(prepared, "dpo")
    shown = capsys.readouterr()
    assert said in shown.err
    assert "model.safetensors); written again from the last checkpoint" in shown.err
    assert "resuming after step 4 of 6" in shown.out
    assert_equal(before, weights(paths))
    assert logged.equals(pl.read_parquet(paths.training / "steps.parquet"))


def test_a_damaged_line_of_metrics_is_not_carried_on(prepared, capsys):
    """Line 6 belongs to step 6, and the checkpoint of step 4 stands before it. Line 1 stands before all of them."""
    paths = training(prepared, "dpo")
    metrics = paths.training / "metrics.jsonl"
    flip(metrics, -5)
    training(prepared, "dpo")
    assert "step-000006: metrics.jsonl: line 6 does not have the checksum" in capsys.readouterr().err
    assert [line["step"] for line in map(json.loads, metrics.read_text().splitlines())] == [1, 2, 3, 4, 5, 6]
    flip(metrics, 9)
    flip(paths.training / "metrics.crc32", 9)
    with pytest.raises(InputError, match="No checkpoint of this run can be used") as raised:
        training(prepared, "dpo")
    assert "line 1 does not have the checksum" in raised.value.found
    assert "--restart" in raised.value.fix


def test_a_damaged_lineage_is_written_again_where_the_model_says_whose_it_is(prepared, capsys):
    paths = training(prepared, "dpo")
    before = paths.lineage.read_bytes()
    flip(paths.lineage, 100)
    training(prepared, "dpo")
    assert "written again" in capsys.readouterr().err
    assert paths.lineage.read_bytes() == before
    flip(paths.lineage, 100)
    shutil.rmtree(paths.policy)
    with pytest.raises(InputError, match="manifest of the training run cannot be read") as raised:
        training(prepared, "dpo")
    assert "--restart" in raised.value.fix


def test_a_dry_run_says_time_and_memory_and_writes_nothing(prepared, capsys):
    """40 pairs in steps of 8 over 1.5 epochs: 8 steps, the second epoch's last of three a full one."""
    run = prepared.run(train={"method": "beta_dpo", "batch_pairs": 8, "epochs": 1.5})
    tokens = pl.read_parquet(prepared.paths.pairs("train")).select(
        pl.sum_horizontal("prompt_len", "chosen_len", "rejected_len").cast(pl.Int64)
    )
    capsys.readouterr()
    train.estimate(run)
    out = capsys.readouterr().out
    assert f"40 pairs, 8 steps, {int(tokens.to_series().mean() * (40 + 3 * 8)):,} tokens" in out
    assert "time       about" in out
    assert "memory     about" in out
    assert not (prepared.paths.out / "train").exists()


def test_the_estimate_takes_whole_steps_in_proportion(prepared, monkeypatch):
    """With a clock that only steps move, one second each: time = steps of the probe / their tokens * all tokens."""
    run = prepared.run(train={"method": "dpo", "batch_pairs": 8, "max_steps": 10})
    method = methods.resolve("dpo", {})
    data = training_data.load_training_data(RunPaths.of(run), method.reads)
    trainer = Trainer.build(run, method, data, Accelerator(cpu=True))
    taken, clock = [], iter(range(100))

    def take(step, epoch, pairs, state):
        taken.append(pairs)
        return state, {}, {}

    monkeypatch.setattr(type(trainer), "take", lambda self, *call: take(*call))
    monkeypatch.setattr(train_estimate.time, "perf_counter", lambda: float(next(clock)))
    found = train_estimate.estimate_training(trainer, seconds=3)
    longest, *probe = taken
    assert trainer.data.row_tokens[longest[0]] == trainer.data.longest_row
    assert len(probe) == 3
    seconds_per_token = 4 / sum(trainer.data.row_tokens[pairs].sum() for pairs in probe)
    assert found.seconds == pytest.approx(seconds_per_token * int(trainer.data.row_tokens.mean() * 80))


def test_processes_end_the_probe_together(prepared, monkeypatch):
    """Each clock says at once that it is enough; what all of them say together decides."""
    run = prepared.run(train={"method": "dpo", "batch_pairs": 8})
    method = methods.resolve("dpo", {})
    trainer = Trainer.build(
        run, method, training_data.load_training_data(RunPaths.of(run), method.reads), Accelerator(cpu=True)
    )
    together, taken = iter([False, False, True]), []
    monkeypatch.setattr(type(trainer), "anyone", lambda self, stop: next(together))
    monkeypatch.setattr(type(trainer), "take", lambda self, step, epoch, pairs, state: (taken.append(1), state, {})[1:])
    train_estimate.estimate_training(trainer, seconds=0)
    assert len(taken) == 1 + 3  # the longest rows first, then until all agree
