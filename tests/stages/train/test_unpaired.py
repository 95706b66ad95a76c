"""Unpaired data through every stage: good and bad completions, each of its own prompt, for kto, bco and sft."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import Pair, ReferencePair
from scoreonce.stages.audit.stage import audit
from scoreonce.stages.common.files import read_json
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.data.token_file import TokenFile
from scoreonce.stages.evaluate.stage import evaluate
from scoreonce.stages.prepare.stage import prepare
from scoreonce.stages.report.stage import report
from scoreonce.stages.score.stage import score
from scoreonce.stages.train.stage import train

WORDS = ["</s>", "<unk>", *(f"w{number}" for number in range(95))]
GOOD = [True, True, False, True, False, False, True, False]
# Each prompt with the completion of the next row, good or bad.
DONORS = [1, 2, 3, 4, 5, 6, 7, 0]


def row(number: int, good: bool) -> dict[str, Any]:
    words = [f"w{(7 * number + k) % 95}" for k in range(3 + number % 3)]
    return {"prompt": f"w{number} w{number + 40}", "completion": "".join(f" {word}" for word in words), "label": good}


def run_of(world, rows: list[dict[str, Any]], **train_settings: Any) -> Run:
    model = world.model()
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>").save_pretrained(model)
    source = world.folder / "unpaired.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return world.run(
        data={"source": str(source), "test_share": 0.0},
        score={"mismatched": True},
        train={"batch_pairs": 8, "max_steps": 1, "shuffle": False, "learning_rate": 1e-3} | train_settings,
    )


@pytest.fixture
def scored(world) -> Run:
    run = run_of(world, [row(number, good) for number, good in enumerate(GOOD)])
    prepare(run)
    score(run)
    return run


def with_method(run: Run, method: str, **settings: Any) -> Run:
    return run.replace({"train.method": method, **{f"train.{name}": value for name, value in settings.items()}})


def sums(model: Path, prompts: list[list[int]], completions: list[list[int]]) -> list[float]:
    """Log-probs of completions by plain transformers, one sequence at a time."""
    network = AutoModelForCausalLM.from_pretrained(model).double()
    found = []
    for prompt, completion in zip(prompts, completions, strict=True):
        with torch.no_grad():
            logps = network(torch.tensor([[*prompt, *completion]])).logits[0].log_softmax(-1)
        steps = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
        found.append(sum(float(logps[step, token]) for step, token in zip(steps, completion, strict=True)))
    return found


def ids(paths: RunPaths) -> tuple[list[list[int]], list[list[int]]]:
    tokens = TokenFile(paths.tokens("train"))
    sides = ["chosen_ids" if good else "rejected_ids" for good in GOOD]
    return (
        [tokens.row(place, "prompt_ids").tolist() for place in range(len(GOOD))],
        [tokens.row(place, side).tolist() for place, side in enumerate(sides)],
    )


def test_a_good_completion_is_a_chosen_side_and_a_bad_one_a_rejected_side(scored):
    paths = RunPaths.of(scored)
    pairs = Pair.validate(pl.read_parquet(paths.pairs("train")), cast=False)
    assert pairs["chosen"].is_not_null().to_list() == GOOD
    assert pairs["rejected"].is_null().to_list() == GOOD
    assert [length > 0 for length in pairs["chosen_len"]] == GOOD
    reference = ReferencePair.validate(pl.read_parquet(paths.reference("train")), cast=False)
    prompts, completions = ids(paths)
    expected = sums(Path(scored.reference.model), prompts, completions)
    found = reference.select(pl.coalesce("ref_chosen_logps", "ref_rejected_logps")).to_series()
    assert found.to_list() == pytest.approx(expected, abs=1e-4)
    assert reference["ref_margin"].null_count() == len(GOOD)
    mismatched = sums(Path(scored.reference.model), prompts, [completions[donor] for donor in DONORS])
    assert reference["ref_kl_logps"].to_list() == pytest.approx(mismatched, abs=1e-4)


@pytest.mark.parametrize("method", ["kto", "bco", "bco_pair"])
@pytest.mark.parametrize("tokens", [512, 16])
def test_the_second_step_has_the_loss_of_trl(scored, method, tokens, capsys):
    """After one step, on all eight completions again: mean over them of TRL's loss of each.

    kto: z = max(0, mean of the mismatched log-ratios); l_D (1 - sigmoid(beta (a - z))) for a good completion,
    l_U (1 - sigmoid(beta (z - c))) for a bad one.
    bco: delta = beta times the mean over both steps of the mean log-ratio, that of the first step being 0.
    """
    weights = {"desirable_weight": 1.0, "undesirable_weight": 1.1}
    run = with_method(scored, method, beta=0.5, max_steps=1, scheduler="constant", warmup_ratio=0.0, **weights)
    run = run.replace({"compute.tokens_per_microbatch": tokens})
    first = train(run).metrics
    paths = RunPaths.of(run)
    prompts, completions = ids(paths)

    def logratios(completions: list[list[int]]) -> list[float]:
        policy, reference = (sums(Path(model), prompts, completions) for model in (paths.policy, run.reference.model))
        return [ours - theirs for ours, theirs in zip(policy, reference, strict=True)]

    own, other = logratios(completions), logratios([completions[donor] for donor in DONORS])
    shift = {"kto": max(0.0, sum(other) / 8), "bco": sum(own) / 8 / 2, "bco_pair": 0.0}[method]

    def loss(good: bool, logratio: float) -> float:
        towards = 0.5 * (logratio - shift) * (1 if good else -1)
        sigmoid = 1 / (1 + math.exp(-towards))
        weight = weights["desirable_weight" if good else "undesirable_weight"]
        return weight * (1 - sigmoid if method == "kto" else -math.log(sigmoid))

    expected = sum(loss(good, logratio) for good, logratio in zip(GOOD, own, strict=True)) / 8
    both = with_method(run, method, max_steps=2, label="two")
    second = train(both).metrics
    assert second["loss"][1] == pytest.approx(expected, abs=1e-5)
    rewards = {
        side: 0.5 * sum(ratio for good, ratio in zip(GOOD, own, strict=True) if good is kind) / 4
        for side, kind in (("chosen", True), ("rejected", False))
    }
    for side, reward in rewards.items():
        assert second[f"rewards/{side}"][1] == pytest.approx(reward, abs=1e-4)
    assert second["rewards/margins"][1] == pytest.approx(rewards["chosen"] - rewards["rejected"], abs=1e-4)
    assert first["loss"][0] == pytest.approx((0.5 if method == "kto" else math.log(2)) * (4 * 1.0 + 4 * 1.1) / 8)
    assert "4 good and 4 bad completions" in capsys.readouterr().out


def test_sft_takes_the_good_ones_and_says_so(scored, capsys):
    """Mean over the tokens of the good completions, of the untrained model."""
    found = train(with_method(scored, "sft")).metrics
    prompts, completions = ids(RunPaths.of(scored))
    good = [place for place, is_good in enumerate(GOOD) if is_good]
    chosen = [completions[place] for place in good]
    logps = sums(Path(scored.reference.model), [prompts[place] for place in good], chosen)
    assert found["loss"][0] == pytest.approx(-sum(logps) / sum(map(len, chosen)), abs=1e-4)
    assert "trains on 4 good completions, leaves out 4 bad ones" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "dpo"},
        {"method": "simpo"},
        {"method": "kto", "selection": "gaussian_gap"},
        {"method": "kto", "objective": {"kto": 1.0, "sft": 1.0}},
    ],
)
def test_what_compares_two_completions_is_refused(scored, settings):
    with pytest.raises(InputError, match="the data lacks it") as caught:
        train(with_method(scored, **settings))
    assert "4 of 8 pairs" in caught.value.found
    assert "kto or bco" in caught.value.fix


def test_bad_completions_alone_are_nothing_to_imitate(world):
    run = run_of(world, [row(number, False) for number in range(4)])
    prepare(run)
    with pytest.raises(InputError, match="no good completion"):
        train(with_method(run, "sft"))


def test_evaluation_audit_and_report_of_unpaired_data(world, capsys):
    run = run_of(world, [row(number, number % 3 != 0) for number in range(40)])
    run = with_method(run.replace({"data.test_share": 0.3}), "kto", max_steps=2)
    prepare(run)
    audit(run)
    score(run)
    train(run)
    figures = evaluate(run).summary
    table = pl.read_parquet(RunPaths.of(run).evaluation / "pairs.parquet")
    good, bad = (table[f"{side}_logratios"].drop_nulls().to_list() for side in ("chosen", "rejected"))
    wins = [(a > b) + 0.5 * (a == b) for a in good for b in bad]
    assert figures["unpaired"] == {
        "good": len(good),
        "bad": len(bad),
        "chosen_logratios": pytest.approx(sum(good) / len(good)),
        "rejected_logratios": pytest.approx(sum(bad) / len(bad)),
        "ranking": pytest.approx(sum(wins) / len(wins)),
    }
    assert figures["unranked"] == len(good) + len(bad)
    assert "good above bad" in capsys.readouterr().out
    audit(run)
    findings = {
        finding["name"]: finding["rows"]
        for finding in read_json(RunPaths.of(run).audit_summary)["findings"]
        if finding["rows"]
    }
    assert not any(name.startswith("rule_") for name in findings)
    assert not findings.keys() & {
        "missing_eos",
        "tokens_disagree",
        "one_side_truncated",
        "contradictory_pair",
        "reference_missing",
    }
    page = report(run).page.read_text()
    assert "kto" in page
