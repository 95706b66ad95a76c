"""Methods of the whole vocabulary: from stored hidden states the same training as with the reference loaded."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward.scorer import TokenScores
from scoreonce.pipeline.forward.token_masks import activation_masks
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.identity import completion_id
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.models import loading as models
from scoreonce.stages.score import stage as score
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.store import compact
from scoreonce.stages.store.index import unpacked
from scoreonce.stages.store.sidecar import record
from scoreonce.stages.store.tensor_rows import TensorRows
from scoreonce.stages.train import data as training_data
from scoreonce.stages.train import rebuilt_logps
from scoreonce.stages.train import stage as train
from scoreonce.stages.train.rebuilt_logps import CachedLogps, Comparison

FAST = {"learning_rate": 1e-3, "batch_pairs": 8, "max_steps": 6}
STORED = {"full_vocab": "hidden", "shard_completions": 16}


@pytest.fixture
def prepared(world):
    world.prepare(world.random_pairs(24))
    score.score(world.run(score=STORED))
    return world


def training(world, method, full_vocab, **changes):
    run = world.run(
        train={**FAST, "method": method, "label": f"{method}-{full_vocab}", "full_vocab": full_vocab, **changes}
    )
    train.train(run)
    paths = RunPaths.of(run)
    lines = [json.loads(line) for line in (paths.training / "metrics.jsonl").read_text().splitlines()]
    return lines, load_file(paths.policy / "model.safetensors")


def store_of(world):
    return ScoringJob.of(world.run()).store


def hidden(world):
    """The layer of hidden states, as another process opens it."""
    return store_of(world).tensors("hidden")


def hidden_ids(world):
    return unpacked(hidden(world).index().ids)


@pytest.mark.parametrize("method", ["epsilon_dpo", "tdpo1", "tdpo2", "sparse_po", "mapo"])
def test_stored_hidden_states_train_as_the_live_reference(prepared, method):
    stored, weights = training(prepared, method, "hidden")
    live, others = training(prepared, method, "live")
    for mine, theirs in zip(stored, live, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert mine["beta/mean"] == pytest.approx(theirs["beta/mean"], rel=1e-6)
    for name in weights:
        torch.testing.assert_close(weights[name], others[name], rtol=1e-4, atol=2e-5)
    assert stored[0]["learning_rate"] == 0  # so the second step starts from the reference too, with the cached bits
    assert len({line["loss"] for line in stored[1:]}) == len(stored) - 1


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("method", ["epsilon_dpo", "tdpo2", "sparse_po"])
def test_lora_without_its_adapter_is_the_live_reference(prepared, method, monkeypatch):
    """One model in memory, and the training of two: the same losses, betas and adapter as with the reference loaded."""
    loaded, honest = [], models.load_model

    def load_model(name, **options):
        loaded.append(name)
        return honest(name, **options)

    monkeypatch.setattr(models, "load_model", load_model)
    found = []
    # The same folder under another name is not known to be the reference.
    for label, start, models_in_memory in (("switched", {}, 1), ("loaded", {"model": f"{prepared.model()}/."}, 2)):
        loaded.clear()
        run = prepared.run(
            train={**FAST, "method": method, "label": label, "lora_rank": 4, "full_vocab": "live", **start}
        )
        train.train(run)
        assert len(loaded) == models_in_memory
        paths = RunPaths.of(run)
        lines = [json.loads(line) for line in (paths.training / "metrics.jsonl").read_text().splitlines()]
        found.append((lines, load_file(paths.policy / "adapter_model.safetensors")))
    (switched, adapter), (second, others) = found
    assert len({line["loss"] for line in switched[1:]}) == len(switched) - 1
    for mine, theirs in zip(switched, second, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
        assert mine["beta/mean"] == pytest.approx(theirs["beta/mean"], rel=1e-9)
    assert any(tensor.abs().max() > 1e-4 for name, tensor in adapter.items() if "lora_B" in name)
    for name, tensor in adapter.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-4, atol=1e-6)


def test_steps_in_bfloat16_from_every_form(prepared):
    """A policy near its reference is left at beta = 0.01; one that is another model is not."""
    form = {"full_vocab": "topk", "topk": 96}
    score.score(prepared.run(score=form))
    settings = {**FAST, "method": "epsilon_dpo", "step_dtype": "bf16", "max_steps": 3}
    other = {"model": str(prepared.model("other", seed=14))}

    def betas(full_vocab, **start):
        label = f"{full_vocab}{len(start)}"
        run = prepared.run(train={**settings, "label": label, "full_vocab": full_vocab, **start}, score=form)
        train.train(run)
        return pl.read_parquet(RunPaths.of(run).training / "steps.parquet")["beta"].to_list()

    assert betas("hidden") == [0.01] * 24
    assert betas("hidden", **other) == betas("live", **other)
    assert len(set(betas("hidden", **other))) > 3
    # Log-probs are other bfloat16 numbers than logits, though 96 of the 97 are all there is.
    assert len(set(betas("topk", **other))) > 3


def test_stored_states_and_head_give_the_models_own_logits(prepared):
    """Hidden states times head against logits of plain transformers."""
    model = AutoModelForCausalLM.from_pretrained(prepared.model()).eval()
    states, head = TensorRows(hidden(prepared)), store_of(prepared).head("hidden").read(torch.device("cpu"))
    for prompt, chosen, _ in prepared.random_pairs(24)[:5]:
        ids = torch.tensor([prompt + chosen])
        with torch.no_grad():
            expected = model(ids).logits[0, len(prompt) - 1 : -1]
        found = states.read([completion_id(prompt, chosen)], "hidden")
        assert found.shape[0] == len(chosen)
        torch.testing.assert_close(found @ head.weight.T * head.scale, expected, rtol=1e-4, atol=1e-4)


def test_hidden_states_are_kept_once_and_added_later(world, capsys):
    """Scores first, states when asked for; a second time nothing; more pairs, only theirs."""
    pairs = world.random_pairs(20)
    world.prepare(pairs[:12])
    score.score(world.run())
    assert hidden_ids(world) == []
    score.score(world.run(score=STORED))
    assert len(hidden_ids(world)) == 24
    score.score(world.run(score=STORED))
    assert "scored     nothing" in capsys.readouterr().out
    world.prepare(pairs)
    score.score(world.run(score=STORED))
    assert sorted(hidden_ids(world)) == sorted(set(hidden_ids(world)))
    assert len(hidden_ids(world)) == 40


def test_disk_a_token(prepared):
    """2 d bytes in bfloat16, 4 d in float32, and little besides."""
    tokens = sum(len(c) + len(r) for _, c, r in prepared.random_pairs(24))
    for run, size in ((prepared.run(), 4), (prepared.run(reference={"dtype": "bfloat16"}, score=STORED), 2)):
        score.score(run)
        blocks = ScoringJob.of(run).store.tensors("hidden").files()
        assert sum(block.stat().st_size for block in blocks) == pytest.approx(
            size * 32 * tokens, rel=0.05, abs=24 * 2 * 50
        )


def test_sparse_po_starts_as_tdpo1_and_learns_its_masks(prepared):
    """Masks start at 1: the first loss is TDPO1's plus 2 x 1e-3 per completion token of the pair."""
    sparse, _ = training(prepared, "sparse_po", "hidden", beta=0.1)
    tdpo, _ = training(prepared, "tdpo1", "hidden", beta=0.1)
    steps = pl.read_parquet(RunPaths.of(prepared.run(train={"label": "sparse_po-hidden"})).training / "steps.parquet")
    first = steps.filter(pl.col("step") == 1)
    lengths = pl.read_parquet(prepared.paths.pairs("train")).select(
        "pair_id", tokens=pl.col("chosen_len") + pl.col("rejected_len")
    )
    tokens = first.join(lengths, on="pair_id", maintain_order="left")["tokens"].to_numpy()
    assert sparse[0]["loss"] == pytest.approx(tdpo[0]["loss"] + 2e-3 * tokens.mean(), rel=1e-4)
    paths = RunPaths.of(prepared.run(train={"label": "sparse_po-hidden"}))
    masks = load_file(paths.training / "checkpoints/step-000006/weights.safetensors")["masking.heads.weight"]
    assert masks.abs().max() > 1e-4
    assert not any("masking" in name for name in load_file(paths.policy / "model.safetensors"))


def test_activation_masks_by_hand():
    """Means 1, 3, 2 rescale to 0, 1, 1/2; a single token has nothing to be rescaled against and counts whole."""
    masks = activation_masks(torch.tensor([[1.0, 1.0], [2.0, 4.0], [2.0, 2.0], [7.0, 5.0]]), torch.tensor([3, 1]))
    assert masks.reward.tolist() == [0.0, 1.0, 0.5, 1.0]


@pytest.mark.parametrize("method", ["epsilon_dpo", "tdpo2"])
def test_top_k_comes_close_and_says_how_close(prepared, method, capsys):
    """All but one of 97 tokens are exact to float16; 8 are not."""
    losses = {}
    for k in (96, 8):
        form = {"full_vocab": "topk", "topk": k}
        score.score(prepared.run(score=form))
        assert f"topk-tail-{k} is approximate" in capsys.readouterr().err
        run = prepared.run(train={**FAST, "method": method, "label": f"top{k}", "full_vocab": "topk"}, score=form)
        train.train(run)
        lines = (RunPaths.of(run).training / "metrics.jsonl").read_text().splitlines()
        losses[k] = [json.loads(line)["loss"] for line in lines]
    exact = [line["loss"] for line in training(prepared, method, "hidden")[0]]
    near, far = (max(abs(a - b) for a, b in zip(losses[k], exact, strict=True)) for k in (96, 8))
    assert near < 5e-3
    assert near < far or method == "epsilon_dpo"  # only signs matter there


def test_another_top_k_than_the_stored_one_is_named(prepared):
    score.score(prepared.run(score={"full_vocab": "topk", "topk": 8}))
    with pytest.raises(InputError, match="they are not stored") as raised:
        train.train(prepared.run(train={**FAST, "method": "tdpo1", "full_vocab": "topk"}, score={"topk": 16}))
    assert "score.topk = 16" in raised.value.fix
    assert raised.value.fix.endswith("Stored with score.topk = 8.")
    score.score(prepared.run(score={"full_vocab": "topk", "topk": 16}))
    for head in store_of(prepared).folder.glob("topk-*/head.safetensors"):
        head.unlink()
    with pytest.raises(InputError, match="they are not stored") as raised:
        train.train(prepared.run(train={**FAST, "method": "tdpo1", "full_vocab": "topk"}, score={"topk": 16}))
    assert raised.value.fix.endswith("Stored with score.topk = 8.")  # not the damaged one itself


INT8 = {"full_vocab": "hidden", "hidden": "int8", "shard_completions": 16}


@pytest.fixture
def in_8_bits(world, capsys):
    world.prepare(world.random_pairs(24))
    score.score(world.run(score=INT8))
    world.said = capsys.readouterr().err
    return world


def errors_of(world):
    layer = store_of(world).tensors("hidden-int8")
    return [layer.sidecar(path)["provenance"]["approximation"] for path in layer.files()]


def test_int8_states_say_what_they_cost(in_8_bits):
    """The error that `score` prints and keeps is that of the first shard, computed here from the model's own states."""
    score.score(in_8_bits.run(score=STORED))
    first, *others = errors_of(in_8_bits)
    assert all(error == first for error in others)
    layer = store_of(in_8_bits).tensors("hidden-int8")
    names = unpacked(layer.codec.ids(layer.files()[0]))
    head = store_of(in_8_bits).head("hidden").read(torch.device("cpu"))
    codes, scales = (TensorRows(layer).read(names, column) for column in ("codes", "scales"))
    near = (codes * scales.float().repeat_interleave(32, 1)) @ head.weight.T
    exact = TensorRows(hidden(in_8_bits)).read(names, "hidden") @ head.weight.T
    gaps = exact.log_softmax(1) - near.log_softmax(1)
    kl = (exact.softmax(1) * gaps).sum(1)
    assert first["tokens"] == len(kl)
    assert first["kl_mean"] == pytest.approx(kl.mean().item(), rel=1e-2)
    assert first["kl_max"] == pytest.approx(kl.max().item(), rel=1e-2)
    assert 0 < first["logps_max"] <= gaps.abs().max().item() * 1.01
    said = f"mean {first['kl_mean']:.1e}, largest {first['kl_max']:.1e} nats"
    assert f"hidden-int8 is approximate: KL per token over the first shard: {said}" in in_8_bits.said


@pytest.mark.parametrize("method", ["epsilon_dpo", "tdpo2", "sparse_po", "mapo"])
def test_int8_states_train_nearly_as_exact_ones(in_8_bits, method):
    run = in_8_bits.run(train={**FAST, "method": method, "label": "int8"}, score=INT8)
    train.train(run)
    lines = [json.loads(line) for line in (RunPaths.of(run).training / "metrics.jsonl").read_text().splitlines()]
    score.score(in_8_bits.run(score=STORED))
    exact, _ = training(in_8_bits, method, "hidden")
    gaps = [abs(near["loss"] - line["loss"]) for near, line in zip(lines, exact, strict=True)]
    assert 0 < max(gaps) < 5e-3


def test_int8_and_exact_states_are_kept_apart(in_8_bits):
    settings = {**FAST, "method": "tdpo1"}
    assert 'set score.hidden = "int8"' in expect(in_8_bits, "they are not stored", method="tdpo1").fix
    run = in_8_bits.run(train=settings, score=INT8)
    train.train(run)
    lineage = json.loads(RunPaths.of(run).lineage.read_text())
    assert lineage["train"]["reference_distributions"] == "hidden-int8"
    score.score(in_8_bits.run(score=STORED))
    assert len(hidden_ids(in_8_bits)) == 48
    # Another approximation is another run; exact states are the same run as a loaded reference.
    with pytest.raises(InputError, match="Another training run") as raised:
        train.train(in_8_bits.run(train=settings))
    assert "reference_distributions" in raised.value.found
    train.train(in_8_bits.run(train={**settings, "method": "dpo", "label": "plain"}, score=INT8))
    plain = json.loads((in_8_bits.paths.out / "train/plain/lineage.json").read_text())
    assert "reference_distributions" not in plain["train"]


def test_the_comparison_with_the_cache_knows_the_error_of_int8(in_8_bits):
    """Twice the largest error of a log-prob that the files state, beside rounding; merged files state several."""
    run = in_8_bits.run(score=INT8)
    largest = errors_of(in_8_bits)[0]["logps_max"]
    assert CachedLogps.of(run).tolerance == pytest.approx(1e-5 + 2 * largest)
    assert CachedLogps.of(in_8_bits.run()).tolerance == 1e-5
    pairs = in_8_bits.random_pairs(40)
    in_8_bits.prepare(pairs)
    score.score(run)
    assert compact.compact(in_8_bits.paths.store) > 0
    stated = errors_of(in_8_bits)
    assert len(stated) == 1
    assert len(stated[0]) == 2
    assert CachedLogps.of(run).tolerance == pytest.approx(1e-5 + 2 * max(error["logps_max"] for error in stated[0]))
    train.train(in_8_bits.run(train={**FAST, "method": "tdpo1"}, score=INT8))


def test_wrong_int8_states_are_found(in_8_bits):
    """The codes of one token in reverse, under a digest of their own."""
    layer = store_of(in_8_bits).tensors("hidden-int8")
    block = layer.files()[0]
    stated, tensors = layer.sidecar(block), load_file(block)
    tensors["codes"] = tensors["codes"].flip(1).contiguous()
    save_file(tensors, block)
    record(block, rows=stated["rows"], tokens=stated["tokens"], provenance=stated["provenance"])
    with pytest.raises(InputError, match="rebuilt from hidden states") as raised:
        train.train(in_8_bits.run(train={**FAST, "method": "tdpo1"}, score=INT8))
    assert "is rounding and 8 bits" in raised.value.found
    assert "folder hidden-int8" in raised.value.fix
    assert 'score.hidden = "int8"' in raised.value.fix


def test_disk_a_token_in_8_bits(in_8_bits):
    """Width 32: 32 codes and one scale of 2 bytes, 34 bytes in place of 128 in float32; ids and lengths besides."""
    layer = store_of(in_8_bits).tensors("hidden-int8")
    tokens = sum(len(c) + len(r) for _, c, r in in_8_bits.random_pairs(24))
    tensors = [load_file(path) for path in layer.files()]
    kept = sum(each[name].numel() * each[name].element_size() for each in tensors for name in ("codes", "scales"))
    assert kept == 34 * tokens


def test_masks_need_hidden_states(prepared):
    expect(prepared, "makes its masks from hidden states", method="sparse_po", full_vocab="topk")


def expect(world, match, **settings):
    with pytest.raises(InputError, match=match) as raised:
        train.train(world.run(train={**FAST, **settings}))
    return raised.value


def test_without_hidden_states(world):
    world.prepare(world.random_pairs(8))
    score.score(world.run())
    assert "score.full_vocab" in expect(world, "whole next-token distributions", method="tdpo1").fix


def test_with_some_hidden_states(world):
    pairs = world.random_pairs(12)
    world.prepare(pairs[:8])
    score.score(world.run(score=STORED))
    world.prepare(pairs)
    score.score(world.run())
    assert "8 of the training completions" in expect(world, "no reference distributions", method="tdpo1").found


def test_a_truncated_block(prepared):
    block = hidden(prepared).files()[0]
    block.write_bytes(block.read_bytes()[:-10])
    assert str(block) in expect(prepared, "file of the reference store is damaged", method="tdpo1").where


def test_ld_dpo_takes_its_prefixes_from_the_store(prepared):
    """Equal lengths' worth of both sides; the tail counts half. At step 0 policy and reference agree: log 2."""
    lines, _ = training(prepared, "ld_dpo", "hidden")
    assert lines[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert lines[-1]["loss"] < lines[0]["loss"]
    steps = pl.read_parquet(RunPaths.of(prepared.run(train={"label": "ld_dpo-hidden"})).training / "steps.parquet")
    assert steps["loss"].is_finite().all()


def test_wpo_weighs_by_the_policys_own_distribution(prepared):
    lines, _ = training(prepared, "wpo", "hidden")
    assert 0 < lines[0]["loss"] < np.log(2)


def test_a_method_that_training_cannot_feed_says_what_is_missing(prepared):
    with pytest.raises(InputError, match="needs more of the policy") as caught:
        training_data.load_training_data(prepared.paths, frozenset({"policy_chosen_logps", "policy_attention"}))
    assert caught.value.found == "policy_attention"


def test_the_rebuilt_reference_is_compared_with_the_cache(prepared):
    """Another reference's head under a digest of its own, as where a store was put together by hand."""
    head = store_of(prepared).head("hidden")
    tensors = load_file(head.path)
    wrong = tensors["weight"].clone()
    wrong[5] *= 1.5
    with safe_open(head.path, "pt") as handle:
        stated = handle.metadata()
    head.path.unlink()
    save_file({"weight": wrong}, head.path, stated)
    head.record_digest()
    error = expect(prepared, "rebuilt from hidden states are not the cached ones", method="tdpo1")
    completion = error.where.split()[1]
    names = pl.read_parquet(prepared.paths.pairs("train")).select("chosen_id", "rejected_id")
    assert completion in {name for row in names.iter_rows() for name in row}
    assert "1e-05 is rounding" in error.found
    expect(prepared, "rebuilt from hidden states", method="epsilon_dpo", label="other")
    train.train(prepared.run(train={**FAST, "method": "dpo", "label": "plain"}))  # reads no hidden states


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_rebuilt_log_probs_by_hand(prepared, dtype, tolerance):
    """Two completions of 2 and 4 tokens: what is allowed is a mean over the tokens of each."""
    run = prepared.run(reference={"dtype": dtype})
    (prompt, chosen, rejected), *_ = prepared.random_pairs(24)
    lengths = [len(chosen), len(rejected)]
    cached = CachedLogps.of(run)
    assert cached.tolerance == tolerance
    table = pl.read_parquet(prepared.paths.reference("train")).row(0, named=True)
    means = [table[f"ref_{side}_logps"] / n for side, n in zip(("chosen", "rejected"), lengths, strict=True)]

    def compare(*off):
        sums = np.array([n * (mean + o) for n, mean, o in zip(lengths, means, off, strict=True)])
        cached.require_agreement(
            [completion_id(prompt, chosen), completion_id(prompt, rejected)], sums, np.array(lengths)
        )

    compare(0.8 * tolerance, -0.8 * tolerance)
    with pytest.raises(InputError) as raised:
        compare(0.5 * tolerance, -1.3 * tolerance)
    assert raised.value.where == f"completion {completion_id(prompt, rejected)} of the training pairs"
    with pytest.raises(InputError) as raised:
        compare(float("nan"), 0)
    assert raised.value.where == f"completion {completion_id(prompt, chosen)} of the training pairs"
    cached.require_agreement([completion_id([1, 2], [3])], np.ones(1), np.ones(1, dtype=np.int64))


def test_rebuilt_log_probs_are_read_back_once_per_step(prepared, monkeypatch):
    """Of three micro-batches the second is 1 nat off in its first token: no forward says so, the step does."""
    (prompt, chosen, rejected), *_ = prepared.random_pairs(24)
    row = PromptRow(np.array(prompt), (np.array(chosen), np.array(rejected)))
    table = pl.read_parquet(prepared.paths.reference("train")).row(0, named=True)
    lengths = torch.tensor([len(chosen), len(rejected)])
    means = torch.tensor([table["ref_chosen_logps"], table["ref_rejected_logps"]]) / lengths
    right = means.repeat_interleave(lengths).float()
    wrong = right.clone()
    wrong[0] += 1
    scores = iter([right, wrong, right, right])
    read = []

    def read_later(tensors):
        return lambda: read.append(1) or list(tensors)

    monkeypatch.setattr(rebuilt_logps, "read_later", read_later)
    scorer = Comparison(
        lambda rows: TokenScores(torch.zeros(len(right)), lengths, reference_logps=next(scores)), prepared.run()
    )
    for _ in range(3):
        scorer([row])
    assert not read
    with pytest.raises(InputError, match="rebuilt from hidden states") as raised:
        scorer.require_agreement()
    assert raised.value.where == f"completion {completion_id(prompt, chosen)} of the training pairs"
    assert len(read) == 3
    scorer([row])
    scorer.require_agreement()  # what was compared is not compared again
    assert len(read) == 4


def test_no_weight_moves_before_the_comparison(prepared, monkeypatch):
    def disagrees(*_):
        raise InputError("apart", found="", where="", fix="")

    monkeypatch.setattr(CachedLogps, "require_agreement", disagrees)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: pytest.fail("a step was taken"))
    expect(prepared, "apart", method="tdpo1")


def test_the_head_is_read_where_processes_under_ddp_run(prepared):
    """Their device is called cpu:0, a name that safetensors does not know."""
    head = store_of(prepared).head("hidden")
    torch.testing.assert_close(head.read(torch.device("cpu:0")).weight, head.read(torch.device("cpu")).weight)
