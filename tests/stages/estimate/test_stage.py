"""`scoreonce estimate`: from config.json alone, with prepared pairs, and what it says to change."""

import json

import polars as pl
import pytest

from scoreonce.pipeline import methods
from scoreonce.pipeline.pages.numbers import size
from scoreonce.schemas.errors import InputError
from scoreonce.stages import cli
from scoreonce.stages.audit.stage import audit
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.estimate import text
from scoreonce.stages.estimate.changes import changes
from scoreonce.stages.estimate.stage import estimate
from scoreonce.stages.memory import peaks
from scoreonce.stages.memory.workload import of_pairs
from scoreonce.stages.train.data import load_training_data

GIB = 1 << 30
# Two layers, 32 wide, 48 in the feed-forward, 4 heads and 2 of keys, 97 words, untied.
LAYER = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32 + 2 * 32


@pytest.fixture
def without_weights(world):
    (world.model() / "model.safetensors").unlink()
    return world


def parameters(world):
    vocabulary = json.loads((world.model() / "config.json").read_text())["vocab_size"]
    return 2 * LAYER + 2 * vocabulary * 32 + 32


def test_it_needs_no_weights(without_weights):
    found = estimate(without_weights.run())
    count = parameters(without_weights)
    assert found.parameters == found.trained == count
    assert found.train.parts["weights"] == found.score.parts["weights"] == 4 * count
    assert found.train.parts["optimizer state"] == 8 * count
    assert found.train.bytes == sum(found.train.parts.values())
    assert (found.device, found.layout, found.pairs, found.train.fits) == ("cpu", "packed", None, None)
    assert found.microbatch == 512
    assert any("not prepared" in note for note in found.notes)
    json.dumps(found.document())


def test_a_gpu_unless_the_run_file_says_otherwise(without_weights):
    found = estimate(without_weights.run(compute={"device": "auto"}), gpus=2)
    assert (found.device, found.layout) == ("cuda", "flex")
    assert "DDP buckets" in found.train.parts
    assert "DDP buckets" not in estimate(without_weights.run(compute={"device": "auto"})).train.parts


def test_settings_change_it(without_weights):
    """LoRA of rank 4: 4 x (in + out) for each linear layer, q and o 64, k and v 48, the feed-forward 80."""
    plain = estimate(without_weights.run())
    assert estimate(without_weights.run(train={"optimizer": "sgd"})).train.bytes < plain.train.bytes
    bigger = estimate(without_weights.run(compute={"tokens_per_microbatch": 2048}))
    assert bigger.train.parts["activations"] > 3 * plain.train.parts["activations"]
    pytest.importorskip("peft")
    lora = estimate(without_weights.run(train={"lora_rank": 4}))
    assert lora.trained == 2 * 4 * (2 * 64 + 2 * 48 + 3 * 80)
    assert lora.parameters == plain.parameters + lora.trained


def test_prepared_pairs_are_counted(without_weights):
    """Two pairs: prompts of 3 and 5, completions of 4 and 2, 6 and 6. Positions: 3 + 3 + 1 and 5 + 5 + 5."""
    without_weights.prepare([([1, 2, 3], [4] * 4, [5] * 2), ([1] * 5, [6] * 6, [7] * 6)])
    found = estimate(without_weights.run(), tflops=100, mfu=0.5)
    assert found.pairs == 2
    assert found.train.positions == 22
    assert found.microbatch == 64  # 22 positions, padded
    assert not any("not prepared" in note for note in found.notes)
    operations = found.score.operations
    assert found.train.operations == 3 * operations
    assert found.train.seconds == pytest.approx(found.train.operations / 50e12)
    assert found.train.speed == "50% of 100 TFLOP/s on each of 1"
    # Products of all linear layers, the head at 18 tokens, attention: 6 + (3 x 3 + 6) + (1 x 3 + 1) query-key pairs of
    # the first, 15 + 2 x (5 x 5 + 15) of the second.
    linear = 2 * (LAYER - 2 * 32)
    vocabulary = (parameters(without_weights) - 2 * LAYER - 32) // 64
    visible = (6 + 15 + 4) + (15 + 2 * 40)
    assert operations == pytest.approx(2 * linear * 22 + 2 * 32 * vocabulary * 18 + 4 * 32 * 2 * visible)


def test_the_largest_micro_batch_is_of_the_longest_rows(without_weights):
    """Rows of 22, 7 and 15 positions and a budget of 40: the two longest. One GPU of three has one pair of a step."""
    paths = without_weights.prepare(
        [([1] * 8, [2] * 8, [3] * 8), ([1, 2, 3], [4] * 4, [5] * 2), ([1] * 5, [6] * 6, [7] * 6)]
    )
    sides = ("chosen", "rejected")
    found = of_pairs(paths, ("train",), sides, 40, 64, step_tokens=True)
    assert [row.tokens for row in found.rows] == [22, 15]
    assert found.accumulates  # 44 positions are more than 40
    assert [row.tokens for row in of_pairs(paths, ("train",), sides, 40, 1, step_tokens=True).rows] == [22]
    assert not of_pairs(paths, ("train",), sides, 100, 64, step_tokens=True).accumulates
    assert [row.tokens for row in of_pairs(paths, ("train",), ("chosen",), 5, 64, step_tokens=True).rows] == [15]


def test_the_rate_of_an_earlier_run(without_weights):
    """22 positions at 11 per second; the first step, which compiles, does not count."""
    paths = without_weights.prepare([([1, 2, 3], [4] * 4, [5] * 2), ([1] * 5, [6] * 6, [7] * 6)])
    paths.training.mkdir(parents=True)
    pl.DataFrame({"perf/tokens_per_second": [1.0, 11.0, 11.0]}).write_parquet(paths.training / "metrics.parquet")
    found = estimate(without_weights.run())
    assert found.train.seconds == 2
    assert found.train.speed == "11 tokens/s, measured by the run dpo"
    assert found.score.seconds is None
    assert estimate(without_weights.run(), tflops=1).train.speed.startswith("35% of 1 TFLOP/s")


def test_what_to_change(without_weights):
    """A little less than is needed: the first change that is enough. Next to nothing: none is."""
    run = without_weights.run(compute={"device": "auto", "shard": "none", "tokens_per_microbatch": 4096})
    needed = estimate(run, gpus=2).train.bytes / GIB
    assert estimate(run, gpus=2, memory=needed * 1.01).changes == ()
    found = estimate(run, gpus=2, memory=needed * 0.99)
    assert not found.train.fits
    names = [change.settings for change in found.changes]
    assert names[:3] == [
        ("train.gradient_checkpointing=true",),
        ("compute.tokens_per_microbatch=1024",),
        ("compute.shard=full",),
    ]
    assert found.changes[0].fits
    assert "Change first: train.gradient_checkpointing=true." in list(text.lines(found))
    none = estimate(run, gpus=2, memory=1e-6)
    assert not any(change.fits for change in none.changes)
    assert any(line.startswith("None of these is enough") for line in text.lines(none))


def test_changes_together_do_not_contradict_each_other(without_weights):
    """An optimizer of 8 bits and sharding each reduce memory, and `train` refuses both together."""
    run = without_weights.run(compute={"device": "auto", "shard": "none", "tokens_per_microbatch": 4096})
    *alone, together = estimate(run, gpus=8, memory=1e-6).changes
    assert ("train.optimizer=adamw_torch_8bit",) in [change.settings for change in alone]
    assert "compute.shard=full" in together.settings
    assert "train.optimizer=adamw_torch_8bit" not in together.settings


def test_what_train_refuses_is_noted(without_weights):
    run = without_weights.run(compute={"shard": "hybrid"}, train={"optimizer": "adamw_torch_8bit"})
    found = estimate(run, gpus=2)
    assert found.shard == "hybrid"
    said = "\n".join(text.lines(found))
    assert "`train` refuses to put this model in parts. This optimizer needs whole weights." in said
    assert "adamw_torch_8bit" in said


@pytest.mark.parametrize(
    ("options", "shard", "note"),
    [
        ({"gpus": 2, "memory": 4.0}, "none", 'is "none" on such GPUs'),
        ({"gpus": 2, "memory": 3.0}, "full", 'is "full" on such GPUs'),
        ({"gpus": 2}, "none", "give --memory"),
        ({"gpus": 1, "memory": 3.0}, "none", ""),
        ({"gpus": 2, "memory": 3.0, "shard": "hybrid"}, "hybrid", ""),
    ],
)
def test_auto_is_full_where_whole_weights_do_not_fit(without_weights, options, shard, note):
    """Three GiB of a GPU are for what is not counted, so that nothing fits into three."""
    found = estimate(without_weights.run(compute={"device": "auto"}), **options)
    assert found.shard == shard
    assert [note in each for each in found.notes if 'compute.shard = "auto"' in each] == ([True] if note else [])


def test_auto_is_none_for_processes_on_a_cpu(without_weights):
    """Where nothing fits into three GiB of a GPU."""
    found = estimate(without_weights.run(), gpus=2, memory=3.0)
    assert (found.device, found.shard) == ("cpu", "none")


def test_offloading_takes_parts_out_of_the_gpu(without_weights):
    run = without_weights.run(compute={"device": "auto", "offload": True})
    found, kept = estimate(run, gpus=2), estimate(run.replace({"compute.offload": False}), gpus=2, shard="full")
    assert found.shard == "full"
    assert found.train.bytes < kept.train.bytes
    assert not {"weights", "optimizer state"} & found.train.parts.keys()
    assert any("of the host, for each GPU" in note for note in found.notes)
    assert ("compute.offload=true",) in [
        change.settings for change in estimate(run.replace({"compute.offload": False}), gpus=2, memory=1e-6).changes
    ]
    refused = estimate(run.replace({"compute.shard": "none"}))
    assert any("refuses compute.offload" in note for note in refused.notes)


def test_hybrid_shares_out_over_a_machine(without_weights):
    """16 GPUs: with "full" a sixteenth each, with "hybrid" an eighth, or a quarter where a machine has four."""
    run = without_weights.run(compute={"device": "auto", "shard": "hybrid"})
    count = parameters(without_weights)
    found = {group: estimate(run, gpus=16, per_machine=group) for group in (None, 4)}
    assert found[None].train.parts["weights"] == 4 * count // 8
    assert found[4].train.parts["weights"] == found[4].score.parts["weights"] == 4 * count // 4
    assert found[4].train.parts["optimizer state"] == 8 * count // 4
    assert "shared out over the 4 of a machine" in "\n".join(text.lines(found[4]))
    assert estimate(run, gpus=16, shard="full").train.parts["weights"] == 4 * count // 16
    with pytest.raises(InputError, match="same number of GPUs") as refused:
        estimate(run, gpus=12)
    assert refused.value.found == "12 GPUs in all, 8 on each machine"


def test_an_offloaded_optimizer_is_proposed_and_counted(without_weights):
    """Weights of 4 bytes and their gradients stay on the GPU, 16 bytes for each weight go to the CPU."""
    run = without_weights.run(compute={"device": "auto"})
    offer = [change.settings for change in estimate(run, memory=1e-6).changes]
    assert ("compute.offload_optimizer=true",) in offer
    offloaded = run.replace({"compute.offload_optimizer": True})
    found = estimate(offloaded, memory=1e-6)
    assert "optimizer state" not in found.train.parts
    assert found.train.bytes < estimate(run).train.bytes
    assert ("compute.offload_optimizer=true",) not in [change.settings for change in found.changes]
    assert any(f"takes {size(16 * parameters(without_weights))} of the CPU's memory" in note for note in found.notes)
    assert any("is not offloaded" in note for note in estimate(offloaded, shard="full").notes)


def test_offloaded_activations_are_proposed_and_counted(without_weights):
    """The inputs of six layers, 32 float32 values a position; at the peak two are there: one used, one coming back."""
    run = without_weights.run(
        reference={"model": str(without_weights.model("deep", num_hidden_layers=6))},
        compute={"device": "auto", "tokens_per_microbatch": 8_192},
        train={"gradient_checkpointing": True},
    )
    offloaded = run.replace({"compute.offload_activations": True})
    found = estimate(offloaded)
    each = found.microbatch * 32 * 4
    assert any(f"Offloaded activations take {size(6 * each)} of the CPU's memory" in note for note in found.notes)
    counted, kept = (peaks.counted_training(given, 1).sizes.microbatch for given in (offloaded, run))
    assert kept.kept - counted.kept == 6 * each
    assert kept.peak - counted.peak == 4 * each
    for given, offered in ((run, True), (offloaded, False), (run.replace({"compute.device": "cpu"}), False)):
        names = [change.settings for change in changes(given, peaks.Sharing(), 1, lambda run, sharing: 2)]
        assert (("compute.offload_activations=true",) in names) == offered
    for refused, what in (
        ({"train.gradient_checkpointing": False}, "Only what gradient checkpointing keeps"),
        ({"compute.device": "cpu"}, "there is no GPU"),
    ):
        with pytest.raises(InputError, match=what) as caught:
            estimate(offloaded.replace(refused))
        assert caught.value.where == "compute.offload_activations"


def test_four_bits_are_counted_and_proposed(without_weights):
    """Linear layers in 4.13 bits in place of 32, in training and in scoring."""
    pytest.importorskip("peft")
    lora = without_weights.run(compute={"device": "auto"}, train={"lora_rank": 4})
    four = lora.replace({"reference.quantization": "nf4"})
    linear = 2 * (LAYER - 2 * 32)
    for stage in ("train", "score"):
        saved = getattr(estimate(lora), stage).parts["weights"] - getattr(estimate(four), stage).parts["weights"]
        assert saved == pytest.approx(linear * (4 - 4.127 / 8), rel=0.01)
    offer = [change.settings for change in estimate(lora, memory=1e-6).changes]
    assert ("reference.quantization=nf4",) in offer
    whole = estimate(lora.replace({"train.lora_rank": None}), memory=1e-6)
    assert ("train.lora_rank=16 and reference.quantization=nf4",) in [change.settings for change in whole.changes]
    assert any("not sharded" in note for note in estimate(four, shard="full").notes)
    with pytest.raises(InputError, match="4 bits cannot be trained"):
        estimate(four.replace({"train.lora_rank": None}))


def test_several_changes_together_only_as_many_as_are_needed(without_weights):
    """Between what all settings reach together and the best of them alone."""
    run = without_weights.run(compute={"device": "auto", "shard": "none", "tokens_per_microbatch": 4096})
    least = estimate(run, gpus=8, memory=1e-6).changes
    best, together = min(change.bytes for change in least[:-1]), least[-1]
    assert together.bytes < best
    found = estimate(run, gpus=8, memory=(together.bytes + 0.9 * (best - together.bytes)) / GIB).changes[-1]
    assert found.fits
    assert 2 <= len(found.settings) < len(together.settings)


def test_a_full_vocabulary_reference_that_is_loaded_counts(without_weights):
    run = without_weights.run(train={"method": "tdpo2", "full_vocab": "live"})
    count = parameters(without_weights)
    assert estimate(run).train.parts["loaded reference"] == 4 * count


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"gpus": 0}, "--gpus 0"),
        ({"per_machine": -1}, "--per-machine -1"),
        ({"memory": -1.0}, "--memory -1.0"),
        ({"tflops": float("nan")}, "--tflops nan"),
        ({"tflops": 100.0, "mfu": 40.0}, "--mfu 40.0"),
        ({"mfu": 0.4}, "no --tflops"),
    ],
)
def test_options_out_of_range(without_weights, options, found):
    with pytest.raises(InputError, match="the options") as refused:
        estimate(without_weights.run(), **options)
    assert found in refused.value.found


def test_a_model_that_cannot_be_built(without_weights):
    (without_weights.model() / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(InputError, match=r"config.json|configuration"):
        estimate(without_weights.run())


def test_the_command(without_weights, capsys):
    path = without_weights.folder / "run.toml"
    path.write_text(
        f'out = "{without_weights.folder / "out"}"\n[data]\nsource = "none"\n'
        f'[reference]\nmodel = "{without_weights.model()}"\n'
    )
    assert cli.run_command(["estimate", str(path), "--gpus", "2", "--memory", "80"]) == 0
    shown = capsys.readouterr().out
    assert "fits 80 GiB" in shown
    assert "DDP buckets" in shown
    assert cli.run_command(["estimate", str(path), "--json", "--shard", "full"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["shard"] == "full"
    assert document["train"]["bytes"] == sum(document["train"]["parts"].values())
    assert cli.run_command(["estimate", str(path), "--mfu", "0.4"]) == 2


def test_a_model_that_cannot_be_in_parts_stays_whole(without_weights):
    """By the rule of `train`: nothing fits into three GiB, and neither is the change proposed that `train` refuses."""
    pytest.importorskip("peft")
    run = without_weights.run(compute={"device": "auto"}, train={"lora_rank": 4, "lora_use_dora": True})
    found = estimate(run, gpus=2, memory=3.0)
    assert found.shard == "none"
    assert any("not put in parts" in note and "lora_use_dora = true" in note for note in found.notes)
    plain = run.replace({"train.lora_use_dora": False})
    assert estimate(plain, gpus=2, memory=3.0).shard == "full"
    for given, offered in ((run, False), (plain, True)):
        names = [change.settings for change in changes(given, peaks.Sharing(2), 1, lambda run, sharing: 2)]
        assert (("compute.shard=full",) in names) == offered


# Positions 3 + 3 + 1, 5 + 5 + 5 and 8 + 7 + 7.
THREE = [([1, 2, 3], [4] * 4, [5] * 2), ([1] * 5, [6] * 6, [7] * 6), ([1] * 8, [2] * 8, [3] * 8)]


@pytest.mark.parametrize(
    ("settings", "positions", "named"),
    [
        ({"where": "prompt_len < 8"}, 22, "train.where"),
        ({"where": "prompt_len > 3", "drop": ["duplicate_pair"]}, 37, "train.where, train.drop"),
    ],
)
def test_what_training_leaves_out_is_not_counted(without_weights, settings, positions, named):
    without_weights.prepare(THREE)
    if "drop" in settings:
        audit(without_weights.run())
    found = estimate(without_weights.run(train=settings))
    assert found.train.positions == positions
    assert found.score.positions == 7 + 15 + 22
    assert found.pairs == 2
    assert f"Training is counted with the 2 pairs that {named} leaves; `score` scores all." in found.notes


def test_the_share_that_is_drawn_is_the_one_that_is_counted(world):
    """The same pairs as training reads, by the lengths of their rows."""
    world.prepare(world.random_pairs(30))
    for share in (0.1, 0.5):
        run = world.run(train={"method": "simpo", "share": share})
        data = load_training_data(RunPaths.of(run), methods.resolve("simpo", {}).reads, share=share)
        found = estimate(run)
        assert found.pairs == len(data) == round(30 * share)
        rows = [data.row(pair) for pair in range(len(data))]
        assert found.train.positions == sum(row.tokens for row in rows)


def test_a_condition_that_cannot_be_judged_yet_is_said(without_weights):
    without_weights.prepare(THREE)
    found = estimate(without_weights.run(train={"where": "ref_margin > 0"}))
    assert found.pairs == 3
    assert any("All training pairs are counted, whatever train.where says" in note for note in found.notes)
    assert any("ref_margin" in note for note in found.notes)


def test_scoring_under_further_models_is_counted(without_weights):
    """Of the same pairs. Six layers take three times the operations of two, but for the output head."""
    without_weights.prepare(THREE)
    other = {"deep": {"model": str(without_weights.model("deep", num_hidden_layers=6))}}
    options = {"tflops": 100, "mfu": 0.5, "memory": 1}
    found = estimate(without_weights.run(reference={"other": other}), **options)
    deep = found.further["deep"]
    assert (deep.positions, list(found.further)) == (found.score.positions, ["deep"])
    head = 2 * 32 * (parameters(without_weights) - 2 * LAYER - 32) // 64 * (6 + 12 + 16)
    assert deep.operations - head == pytest.approx(3 * (found.score.operations - head))
    assert deep.parts["weights"] - found.score.parts["weights"] == 4 * 4 * LAYER
    assert found.train == estimate(without_weights.run(), **options).train
    said = [line for line in text.lines(found) if "reference.other.deep" in line]
    assert said == [f"to score reference.other.deep: {size(deep.bytes)}, fits, {deep.seconds:,.1f} s more per epoch"]
