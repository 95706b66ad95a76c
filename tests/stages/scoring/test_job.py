"""Scoring: each completion once, whatever happens to the pairs around it; the store's damage is mended by scoring."""

import math
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.schemas import identity
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import CompletionScore
from scoreonce.stages.models.loading import load_model
from scoreonce.stages.scoring import model_scorer as inference
from scoreonce.stages.scoring.estimate import estimate_scoring
from scoreonce.stages.scoring.job import ScoringJob
from scoreonce.stages.scoring.pair_view import pair_view
from scoreonce.stages.scoring.run import score_completions


@pytest.fixture
def forwards(monkeypatch):
    """The prompt rows of every scoring forward (those of the probe ask for no statistics)."""
    seen: list[PromptRow] = []
    original = TokenScorer.forward

    def counting(self, rows, **options):
        if options.get("statistics"):
            seen.extend(rows)
        return original(self, rows, **options)

    monkeypatch.setattr(TokenScorer, "forward", counting)
    return seen


def completions(rows: list[PromptRow]) -> int:
    return sum(len(row.completions) for row in rows)


def stored(job: ScoringJob, columns: list[str]) -> pl.DataFrame:
    return job.store.read(job.store.ids(), columns).sort("completion_id")


def oracle(model, prompt, completion) -> np.ndarray:
    """Log-probs of the completion's tokens by plain transformers, in float64, one sequence at a time."""
    ids = torch.tensor([[*prompt, *completion]])
    with torch.inference_mode():
        logps = model.double()(ids).logits[0].log_softmax(1)
    places = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return np.array([logps[place, token].item() for place, token in zip(places, completion, strict=True)])


def test_scores_are_the_models_own(world):
    """Sum, entropy and the others are worked out again from plain logits."""
    pairs = world.random_pairs(12)
    world.prepare(pairs)
    job = ScoringJob.of(world.run())
    score_completions(job)
    model = load_model(str(world.model()), dtype="float64", device="cpu")
    rows = {row["completion_id"]: row for row in stored(job, CompletionScore.column_names()[1:]).iter_rows(named=True)}
    assert len(rows) == 24
    for prompt, *sides in pairs:
        for side in sides:
            row = rows[identity.completion_id(prompt, side)]
            expected = oracle(model, prompt, side)
            assert row["token_logps"] == pytest.approx(expected, abs=1e-5)
            assert row["logps"] == pytest.approx(math.fsum(row["token_logps"]), abs=1e-12)
            assert row["completion_len"] == len(side)
            with torch.inference_mode():
                p = model(torch.tensor([[*prompt, *side]])).logits[0, len(prompt) - 1 : -1].log_softmax(1)
            assert row["entropy"] == pytest.approx(-(p.exp() * p).sum().item(), rel=1e-5)
            assert row["collision_logps"] == pytest.approx((2 * p).logsumexp(1).sum().item(), rel=1e-5)
            assert row["top1_hits"] == (p.argmax(1) == torch.tensor(side)).sum().item()


def test_rows_follow_the_schema(world):
    world.prepare(world.random_pairs(10))
    job = ScoringJob.of(world.run())
    score_completions(job)
    assert CompletionScore.is_valid(stored(job, CompletionScore.column_names()[1:]))


def test_a_second_time_the_model_is_not_even_loaded(world, monkeypatch):
    world.prepare(world.random_pairs(20))
    first = score_completions(ScoringJob.of(world.run()))
    monkeypatch.setattr(inference, "load_reference", None)
    second = score_completions(ScoringJob.of(world.run()))
    assert (first.scored, first.reused) == (40, 0)
    assert (second.scored, second.reused) == (0, 40)


def test_appended_pairs_alone_are_scored(world, forwards):
    """500 more pairs: 1,000 completions, and not one of the others."""
    pairs = world.random_pairs(600, longest=3)
    world.prepare(pairs[:100])
    score_completions(ScoringJob.of(world.run()))
    assert completions(forwards) == 200
    forwards.clear()
    world.prepare(pairs)
    scoring = score_completions(
        ScoringJob.of(world.run(compute={"tokens_per_microbatch": 4096}, score={"shard_completions": 512}))
    )
    assert (scoring.scored, scoring.reused) == (1000, 200)
    assert completions(forwards) == 1000


@pytest.mark.parametrize("change", ["swapped", "shuffled", "filtered", "re-paired", "held out"])
def test_other_pairs_of_the_same_completions_are_not_scored_again(world, forwards, change):
    pairs = world.random_pairs(24)
    world.prepare(pairs)
    score_completions(ScoringJob.of(world.run()))
    forwards.clear()
    changed = {
        "swapped": [(p, r, c) if i % 2 else (p, c, r) for i, (p, c, r) in enumerate(pairs)],
        "shuffled": pairs[::-1],
        "filtered": pairs[5:9],
        "re-paired": [(pairs[2][0], pairs[2][1], pairs[3][2]), (pairs[3][0], pairs[3][1], pairs[2][1])],
        "held out": pairs[:12],
    }[change]
    world.prepare(changed, pairs[12:] if change == "held out" else ())
    assert score_completions(ScoringJob.of(world.run())).scored == 0
    assert forwards == []


@pytest.mark.parametrize(
    "section",
    [
        {"train": {"beta": 0.5, "learning_rate": 1e-3, "seed": 7}},
        {"compute": {"tokens_per_microbatch": 64}},
        {"score": {"shard_completions": 3}},
        {"compute": {"attention": "padded"}},
    ],
)
def test_settings_that_change_no_value_score_nothing(world, forwards, section):
    world.prepare(world.random_pairs(12))
    score_completions(ScoringJob.of(world.run()))
    forwards.clear()
    assert score_completions(ScoringJob.of(world.run(**section))).scored == 0
    assert forwards == []


def test_graded_completions_share_their_prompt(world, forwards):
    """All 6 pairs of 4 completions: one row, in which the prompt stands once."""
    prompt, graded = [1, 2, 3], [[4, 5], [6, 7, 8], [9], [10, 11]]
    world.prepare([(prompt, a, b) for i, a in enumerate(graded) for b in graded[i + 1 :]])
    score_completions(ScoringJob.of(world.run()))
    (row,) = forwards
    assert sorted(map(list, row.completions)) == sorted(graded)
    assert row.tokens == 3 + sum(len(completion) - 1 for completion in graded)


def test_many_completions_of_one_prompt_stay_within_the_budget(world, forwards):
    prompt = [1, 2, 3, 4]
    pairs = [(prompt, [5, 6, 7, number], [8, number]) for number in range(60)]
    world.prepare(pairs)
    job = ScoringJob.of(world.run(compute={"tokens_per_microbatch": 40}))
    assert score_completions(job).scored == 120
    assert max(row.tokens for row in forwards) <= 40
    assert len(forwards) < 12
    assert completions(forwards) == 120


def test_a_completion_longer_than_the_budget_is_scored_all_the_same(world):
    world.prepare([([1, 2, 3], list(range(4, 60)), [5, 6])])
    assert score_completions(ScoringJob.of(world.run(compute={"tokens_per_microbatch": 8}))).scored == 2


@pytest.mark.parametrize("attention", ["shared", "padded"])
def test_layout_and_batching_do_not_change_values(world, attention):
    world.prepare(world.random_pairs(20))
    plain = ScoringJob.of(world.run())
    score_completions(plain)
    score = {"shard_completions": 5, "store": str(world.folder / "second")}
    other = ScoringJob.of(world.run(compute={"tokens_per_microbatch": 60, "attention": attention}, score=score))
    score_completions(other)
    left, right = stored(plain, ["token_logps", "logps"]), stored(other, ["token_logps", "logps"])
    assert left["completion_id"].equals(right["completion_id"])
    assert left["token_logps"].explode().to_numpy() == pytest.approx(
        right["token_logps"].explode().to_numpy(), abs=1e-5
    )


def test_completion_only_data(world):
    world.prepare([([1, 2], [3, 4], None), ([1, 2], [5], None), ([6], [7, 8], [9])])
    job = ScoringJob.of(world.run())
    assert score_completions(job).scored == 4
    view = pair_view(job.paths, "train", job.store)
    assert view["ref_rejected_logps"].is_null().to_list() == [True, True, False]
    assert view["ref_margin"].is_null().to_list() == [True, True, False]


def test_the_pair_view_joins_both_sides(world):
    pairs = world.random_pairs(9)
    world.prepare([*pairs, pairs[0]])
    job = ScoringJob.of(world.run())
    score_completions(job)
    view = pair_view(job.paths, "train", job.store)
    assert view.height == 9  # the pair that stands twice is one
    logps = dict(stored(job, ["logps"]).iter_rows())
    for (prompt, chosen, rejected), row in zip(pairs, view.iter_rows(named=True), strict=True):
        assert row["ref_chosen_logps"] == logps[identity.completion_id(prompt, chosen)]
        assert row["ref_rejected_logps"] == logps[identity.completion_id(prompt, rejected)]
        assert row["ref_margin"] == row["ref_chosen_logps"] - row["ref_rejected_logps"]
        assert (row["chosen_len"], row["rejected_len"]) == (len(chosen), len(rejected))


def test_the_pair_view_misses_nothing_in_silence(world):
    pairs = world.random_pairs(9)
    world.prepare(pairs[:8])
    job = ScoringJob.of(world.run())
    score_completions(job)
    world.prepare(pairs)
    with pytest.raises(InputError, match=r"(?s)1 of 9 pairs.*scoreonce score"):
        pair_view(job.paths, "train", job.store)


def test_other_weights_or_numerics_have_another_store(world):
    runs = [
        world.run(),
        world.run(reference={"model": str(world.model("other", seed=1))}),
        world.run(reference={"dtype": "bfloat16"}),
    ]
    assert len({ScoringJob.of(run).store.folder for run in runs}) == 3


def test_the_same_weights_elsewhere_have_the_same_store(world):
    shutil.copytree(world.model(), world.folder / "copy")
    elsewhere = world.run(reference={"model": str(world.folder / "copy")})
    assert ScoringJob.of(elsewhere).store.folder == ScoringJob.of(world.run()).store.folder


@pytest.mark.parametrize("harm", ["flip", "truncate", "lose sidecar", "break sidecar", "lose file"])
def test_a_damaged_shard_is_scored_again(world, capsys, harm):
    world.prepare(world.random_pairs(24))
    job = ScoringJob.of(world.run())
    score_completions(job)
    before, shard = stored(job, ["logps"]), job.store.shards()[1]
    lost = job.store.sidecar(shard)["rows"]
    contents = bytearray(shard.read_bytes())
    match harm:
        case "flip":
            contents[len(contents) // 2] ^= 4
            shard.write_bytes(bytes(contents))
        case "truncate":
            shard.write_bytes(bytes(contents[:-40]))
        case "lose sidecar":
            shard.with_suffix(".json").unlink()
        case "break sidecar":
            shard.with_suffix(".json").write_text("{")
        case "lose file":
            shard.unlink()
    again = ScoringJob.of(world.run())
    scoring = score_completions(again)
    assert (scoring.scored, scoring.reused) == (lost, 48 - lost)
    after = stored(again, ["logps"])
    assert after["completion_id"].equals(before["completion_id"])
    assert after["logps"].to_numpy() == pytest.approx(before["logps"].to_numpy(), abs=1e-5)
    assert (f"damaged shard {shard.name}" in capsys.readouterr().err) == (harm != "lose sidecar")
    assert not shard.exists()


def test_an_interrupted_run_keeps_its_shards_and_goes_on(world, monkeypatch):
    world.prepare(world.random_pairs(40))
    whole = ScoringJob.of(world.run(score={"shard_completions": 16, "store": str(world.folder / "whole")}))
    score_completions(whole)
    job, appended = ScoringJob.of(world.run()), []
    original = type(job.store).append

    def interrupted(self, table, provenance, **options):
        if len(appended) == 2:
            raise KeyboardInterrupt
        appended.append(table.num_rows)
        return original(self, table, provenance, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(job.store), "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            score_completions(job)
    scoring = score_completions(ScoringJob.of(world.run()))
    assert scoring.reused == sum(appended)
    assert scoring.scored == 80 - sum(appended)
    assert stored(job, ["logps", "token_logps"]).equals(stored(whole, ["logps", "token_logps"]))


def test_a_vocabulary_that_does_not_fit_is_seen_before_any_forward(world, forwards, monkeypatch):
    monkeypatch.setattr(inference, "agreed_layout", None)
    world.prepare([([1, 2], [3, 97], [5])])
    with pytest.raises(InputError, match="tokenizer that does not fit") as raised:
        score_completions(ScoringJob.of(world.run()))
    assert raised.value.found == "token id 97 in the pairs, 97 tokens in the model"
    assert forwards == []


def gpt2(world):
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = world.folder / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=64, n_embd=16, n_layer=1, n_head=2)).save_pretrained(folder)
    return world.run(reference={"model": str(folder)})


def opt(world):
    from transformers import OPTConfig, OPTForCausalLM

    folder = world.folder / "opt"
    OPTForCausalLM(
        OPTConfig(
            vocab_size=97,
            max_position_embeddings=64,
            hidden_size=16,
            word_embed_proj_dim=16,
            ffn_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    ).save_pretrained(folder)
    return world.run(reference={"model": str(folder)})


@pytest.mark.parametrize("build", [gpt2, opt])
def test_a_table_of_positions_ends(world, build):
    """A prompt of 50 and a completion of 15 take 64 positions, as the last token is only predicted."""
    run = build(world)
    world.prepare([(list(range(50)), list(range(15)), [5])])
    assert score_completions(ScoringJob.of(run)).scored == 2
    world.prepare([(list(range(50)), list(range(16)), [5])])
    with pytest.raises(InputError, match=r"(?s)65 tokens.*ends at 64.*data\.max_length"):
        score_completions(ScoringJob.of(run))


def test_computed_positions_have_no_end(world):
    world.prepare([(list(range(90)) * 3, [5], [6])])
    assert score_completions(ScoringJob.of(world.run())).scored == 2


@pytest.mark.parametrize(("dtype", "cause"), [("float32", "NaN"), ("float16", "float16 overflowed")])
def test_a_log_prob_that_is_not_finite_is_not_stored(world, monkeypatch, dtype, cause):
    world.prepare(world.random_pairs(4))
    original = inference.ModelScorer.score

    def spoiled(self, rows, advance, **options):
        scores = original(self, rows, advance, **options)
        scores.scores.logps[3] = float("nan")
        return scores

    monkeypatch.setattr(inference.ModelScorer, "score", spoiled)
    job = ScoringJob.of(world.run(reference={"dtype": dtype}))
    with pytest.raises(InputError, match=f"(?s)not finite.*row [0-3] of the dataset.*{cause}"):
        score_completions(job)
    assert job.store.shards() == []


def test_too_little_gpu_memory_names_a_smaller_budget(world, monkeypatch):
    def exhausted(self, rows, **options):
        if options.get("statistics"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
        return original(self, rows, **options)

    original = TokenScorer.forward
    monkeypatch.setattr(TokenScorer, "forward", exhausted)
    world.prepare(world.random_pairs(4))
    with pytest.raises(InputError, match=r"--set compute\.tokens_per_microbatch=256") as raised:
        score_completions(ScoringJob.of(world.run()))
    assert raised.value.found == "CUDA out of memory. Tried to allocate 2 GiB."


def test_the_estimate_counts_what_scoring_does(world):
    pairs = world.random_pairs(30)
    world.prepare(pairs[:10])
    score_completions(ScoringJob.of(world.run()))
    world.prepare([*pairs, (pairs[0][0], pairs[0][1], [50, 51, 52])])
    job = ScoringJob.of(world.run())
    left = estimate_scoring(job)
    assert (left.pairs, left.completions) == (21, 41)
    assert left.seconds > 0
    scoring = score_completions(job)
    assert (scoring.scored, scoring.tokens) == (left.completions, left.tokens)


def test_an_estimate_writes_nothing(world):
    world.prepare(world.random_pairs(10))
    before = sorted(world.folder.rglob("*"))
    assert estimate_scoring(ScoringJob.of(world.run())).completions == 20
    after = sorted(path for path in world.folder.rglob("*") if "cache" not in path.parts)
    assert after == [path for path in before if "cache" not in path.parts]


def test_an_estimate_counts_damaged_shards_in(world):
    world.prepare(world.random_pairs(24))
    job = ScoringJob.of(world.run())
    score_completions(job)
    shard = job.store.shards()[0]
    rows = job.store.sidecar(shard)["rows"]
    shard.write_bytes(b"damaged")
    assert estimate_scoring(ScoringJob.of(world.run())).completions == rows
    assert shard.exists()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers for it
def test_an_adapter_is_part_of_the_reference(world):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(world.model()), config)
    adapted.save_pretrained(world.folder / "adapter")
    world.prepare([([1, 2], [3, 4], [5, 6])])
    plain, tuned = (
        ScoringJob.of(world.run()),
        ScoringJob.of(world.run(reference={"adapter": str(world.folder / "adapter")})),
    )
    assert plain.store.folder != tuned.store.folder
    score_completions(plain)
    score_completions(tuned)
    expected = oracle(adapted.merge_and_unload().eval(), [1, 2], [3, 4])
    (row,) = tuned.store.read(pl.Series([identity.completion_id([1, 2], [3, 4])]), ["token_logps"])[
        "token_logps"
    ].to_list()
    assert row == pytest.approx(expected, abs=1e-5)
    assert not np.allclose(stored(plain, ["logps"])["logps"], stored(tuned, ["logps"])["logps"], atol=1e-3)


@pytest.mark.parametrize(("name", "folder"), [("hh-llama-2.8M", "hh-llama-2.8M"), ("stories260K", "stories260K-hf")])
def test_real_models_agree_with_golden_scores(world, shared, name, folder):
    """Another implementation in float64, one sequence at a time, to 1e-5 of max(1, |log-prob|) per token.

    In absolute terms stories260K is off by up to 2.6e-5, on tokens of many nats: it amplifies rounding, and plain
    transformers in float32 is just as far off.
    """
    golden = pl.read_parquet(shared / "data" / "golden" / f"{name}_float64.parquet")
    world.prepare(list(golden.select("prompt_ids", "chosen_ids", "rejected_ids").iter_rows()))
    job = ScoringJob.of(
        world.run(
            reference={"model": str(shared / "data" / "models" / folder)}, compute={"tokens_per_microbatch": 2048}
        )
    )
    score_completions(job)
    rows = {row["completion_id"]: row for row in stored(job, ["token_logps", "logps"]).iter_rows(named=True)}
    differences = []
    for row in golden.iter_rows(named=True):
        for side in ("chosen", "rejected"):
            ours = rows[identity.completion_id(row["prompt_ids"], row[f"{side}_ids"])]
            assert ours["logps"] == pytest.approx(row[f"{side}_logps"], abs=1e-3)
            exact = np.array(row[f"{side}_token_logps"])
            differences.append((ours["token_logps"] - exact) / np.maximum(1, np.abs(exact)))
    assert np.abs(np.concatenate(differences)).max() < 1e-5
    assert np.abs(np.concatenate(differences)).mean() < 1e-6


@pytest.mark.parametrize(("attention", "positions"), [("shared", 120), ("padded", 220)])
def test_the_measured_speed_counts_a_prompt_once_in_either_layout(world, monkeypatch, attention, positions):
    """A prompt of 100 and two completions of 11 in one second: 120 positions, though 220 are computed when padded."""
    run = world.run(compute={"attention": attention})
    fit = {"longest_row": 120, "longest_sequence": 110, "largest_token": 90}
    loaded = inference.ModelScorer.load(run.reference, run.compute, **fit)
    row = PromptRow(np.arange(100, dtype=np.int32) % 90, (np.arange(11, dtype=np.int32), np.arange(11, dtype=np.int32)))
    moved, clock = [], iter([0.0, 1.0, 1.0])
    loaded.score([row], lambda completions, tokens: moved.append(tokens))
    assert sum(moved) == positions
    monkeypatch.setattr(inference.time, "perf_counter", lambda: next(clock))
    assert loaded.positions_per_second([row], 5.0) == pytest.approx(120)
