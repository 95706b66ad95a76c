"""One step: the same gradients however it is split, and the same training as TRL."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import VOCABULARY, tiny_model

from scoreonce.pipeline import methods
from scoreonce.pipeline.batches.microbatches import microbatches
from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward.architecture import head_of
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.head.log_probs import ReferenceLogits
from scoreonce.pipeline.head.token_scores import CachedTokens
from scoreonce.pipeline.training.policy_columns import PolicyColumns
from scoreonce.pipeline.training.step import Collectives, MicrobatchPlan, Step, in_parts
from scoreonce.stages.train.trainer import masking

PAIRS = 12


def exact_model(seed=0):
    """float64 throughout, norms too, unlike Llama's: float32 rounds by the batch's shape and the number of threads."""
    return tiny_model("gpt_neox", torch.float64, seed)


def problem(seed=0):
    random = np.random.default_rng(seed)

    def ids():
        return random.integers(3, VOCABULARY, random.integers(2, 14), dtype=np.int32)

    rows = [PromptRow(ids(), (ids(), ids())) for _ in range(PAIRS)]
    model = exact_model()
    with torch.no_grad():
        sums = TokenScorer(model, "shared")(rows).sums()
    columns = {
        "ref_chosen_logps": sums[0::2] + torch.randn(PAIRS),
        "ref_rejected_logps": sums[1::2] + torch.randn(PAIRS),
        "chosen_len": torch.tensor([len(r.completions[0]) for r in rows], dtype=torch.float64),
        "rejected_len": torch.tensor([len(r.completions[1]) for r in rows], dtype=torch.float64),
        "exponential_draws": torch.from_numpy(random.standard_exponential(PAIRS)),
    }
    return model, rows, columns


def assert_same_gradient(left, right):
    """Equal to float64 rounding, as vectors."""
    assert (left - right).norm() < 1e-12 * right.norm()


ALONE = Collectives()
COMPOSED = {
    name: methods.resolve(None, settings, *pieces)
    for name, settings, *pieces in (
        ("beta_kto", {}, "kto", "batch_beta", "gaussian_gap"),
        ("beta_tdpo", {}, "tdpo2", "batch_beta", "gaussian_gap"),
        ("beta_ipo", {}, "ipo", "batch_beta", "gaussian_gap"),
        ("epsilon_ipo", {}, "ipo", "perturbed_beta"),
        ("epsilon_dpo_bf16", {"step_dtype": "bf16"}, "dpo", "perturbed_beta"),
        ("alpha_margin_dpo", {}, "dpo", "alpha_margin"),
    )
}


def cached_tokens(logps):
    """Some log-probs of the reference, bounds that some tokens reach, and some weights."""
    return CachedTokens(logps, (-1.0, 1.5), logps.exp() + 0.5)


def step_of(name, processes=ALONE):
    """A step of a method on a fresh model, with the rows and columns that it reads; and its forwards, counted."""
    torch.manual_seed(1)
    model, rows, columns = problem()
    method = COMPOSED[name] if name in COMPOSED else methods.resolve(name, {})
    scorer, calls = TokenScorer(model, "shared", masking(method, model, torch.device("cpu"))), []
    scorer.register_forward_hook(lambda *_: calls.append(1))
    asked = PolicyColumns.of(method.reads)
    if len(asked.completions) == 1:
        rows = [PromptRow(row.prompt, row.completions[:1]) for row in rows]
    if "mismatched" in asked.completions:
        thirds = [row.completions[0] for row in rows[1:] + rows[:1]]
        rows = [PromptRow(row.prompt, (*row.completions, third)) for row, third in zip(rows, thirds, strict=True)]
    for number, column in enumerate(sorted(method.reads - asked.names - columns.keys())):
        columns[column] = torch.linspace(0.9, 0.2, PAIRS, dtype=torch.float64) / (1 + number)  # scores, preferences
    other = TokenScorer(exact_model(seed=9), "shared")
    epsilon = method.hyperparameters.get("epsilon")
    reference = None
    if asked.needs("distributions", "hidden states"):
        rounded = asked.reads("rounded")
        reference = lambda shown: ReferenceLogits(other.hidden(shown), head_of(other.model), epsilon, rounded)  # noqa: E731
    cached = None
    if asked.needs("token log-probs"):
        cached = lambda shown: cached_tokens(other(shown).token_logps.detach())  # noqa: E731
    return Step(scorer, list(model.parameters()), method, processes, reference, cached), rows, columns, calls


def flat_gradient(step):
    return torch.cat([p.grad.flatten() for p in step.parameters])


def gradients(name, budget):
    """The flat gradient, the outcome and the number of forwards of one step under a token budget."""
    step, rows, columns, calls = step_of(name)
    outcome, _ = step(rows, columns, step.method.init_state(), budget)
    return flat_gradient(step), outcome, len(calls)


TRAINABLE = [
    name
    for name, method in methods.METHODS.items()
    if PolicyColumns.of(method.reads).names == {column for column in method.reads if column.startswith("policy_")}
]

COUPLED = [name for name in TRAINABLE if methods.METHODS[name].batch_coupled]


@pytest.mark.parametrize("name", [*TRAINABLE, *COMPOSED])
def test_micro_batches_change_nothing(name):
    whole, outcome, calls = gradients(name, budget=10**6)
    assert calls == 1
    for budget in (100, 40):
        split, parts, more = gradients(name, budget)
        assert more > 1
        assert_same_gradient(split, whole)
        torch.testing.assert_close(parts.loss, outcome.loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(parts.beta, outcome.beta, rtol=1e-12, atol=0, equal_nan=True)
        assert parts.weight.tolist() == outcome.weight.tolist()


@pytest.mark.parametrize("name", COMPOSED)
def test_a_composition_trains(name):
    """Two steps lower the objective itself, uncalibrated, on the pairs that the first one kept."""
    step, rows, columns, _ = step_of(name)
    plain = replace(step, method=methods.resolve(None, {}, step.method.objective.name))
    state, outcomes, losses = step.method.init_state(), [], []
    optimizer = torch.optim.SGD(step.parameters, lr=1e-6)
    for _ in range(3):
        outcome, everything = step(rows, columns, state, 10**6)
        outcomes.append(outcome)
        state = outcome.state
        plainly = plain.method.run(everything, plain.method.init_state()).losses.detach()
        losses.append(float((outcomes[0].weight * plainly).sum()))
        assert torch.isfinite(flat_gradient(step)).all()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[0] > losses[1] > losses[2]
    first = outcomes[0]
    assert int(first.weight.sum()) == (9 if name.startswith("beta_") else PAIRS)  # 0.8 of 12 pairs
    found = set((first.target_margin if name == "alpha_margin_dpo" else first.beta).tolist())
    # One beta for the step; a decision on every pair in float32, not so in bfloat16; a margin for each pair.
    distinct = {"epsilon_ipo": 2, "epsilon_dpo_bf16": 3, "alpha_margin_dpo": PAIRS}
    assert len(found) == distinct.get(name, 1)
    assert found != {step.method.hyperparameters["beta"]}


def test_a_per_pair_method_needs_no_second_forward():
    batches = len(MicrobatchPlan.of([row.tokens for row in problem()[1]], 1, 100, microbatches).microbatches[0])
    assert gradients("dpo", 100)[2] == batches
    assert gradients("beta_dpo", 100)[2] == 2 * batches - 1  # one graph is kept


def test_ktos_mismatched_completion_takes_no_part_in_the_gradient_pass():
    """Three completions in the pass that gives the columns, whose first micro-batch keeps its graph; then two."""
    step, rows, columns, _ = step_of("kto")
    seen = set()
    step.scorer.register_forward_pre_hook(
        lambda _, given: seen.update((torch.is_grad_enabled(), len(row.completions)) for row in given[0])
    )
    step(rows, columns, {}, 40)
    assert seen == {(True, 3), (False, 3), (True, 2)}


def test_gradient_is_that_of_the_loss():
    """Against autograd straight through the DPO formula."""
    flat, outcome, _ = gradients("dpo", 100)
    torch.manual_seed(1)
    model, rows, columns = problem()
    sums = TokenScorer(model, "padded")(rows).sums()
    margin = (sums[0::2] - columns["ref_chosen_logps"]) - (sums[1::2] - columns["ref_rejected_logps"])
    loss = -torch.nn.functional.logsigmoid(0.1 * margin).mean()
    loss.backward()
    torch.testing.assert_close(outcome.loss, loss.detach(), rtol=1e-12, atol=0)
    direct = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert_same_gradient(flat, direct)


def test_sft_loss_is_the_token_mean():
    torch.manual_seed(1)
    model, rows, columns = problem()
    rows = [PromptRow(row.prompt, row.completions[:1]) for row in rows]
    method = methods.resolve("sft", {})
    outcome, _ = Step(TokenScorer(model, "shared"), list(model.parameters()), method)(rows, columns, {}, 10**6)
    with torch.no_grad():
        tokens = TokenScorer(model, "padded")(rows).token_logps
    assert outcome.loss.item() == pytest.approx(-float(tokens.double().mean()), rel=1e-12)


@pytest.mark.parametrize("name", COUPLED)
def test_gradient_of_coupled_pairs_is_that_of_the_whole_graph(name):
    """Against autograd from the loss of all pairs through method and model at once, without columns between them."""
    step, rows, columns, _ = step_of(name)
    step(rows, columns, step.method.init_state(), 40)
    fresh, *_ = step_of(name)
    together = PolicyColumns.of(step.method.reads).from_scores(TokenScorer(fresh.scorer.model, "padded")(rows))
    fresh.method.run({**columns, **together}, fresh.method.init_state()).loss.backward()
    assert_same_gradient(flat_gradient(step), flat_gradient(fresh))


@pytest.mark.parametrize(
    ("name", "budget"), [("dpo", 10**6), ("dpo", 40), ("beta_dpo", 10**6), *((name, 40) for name in COUPLED)]
)
def test_two_processes_sum_to_one(name, budget):
    """Two processes, one after the other, whose columns are added up as gathering does, gradients averaged as DDP."""
    whole, _, _ = gradients(name, 10**6)
    asked = []
    for index in range(2):  # what each would contribute, the other's pairs left at 0
        step, rows, columns, _ = step_of(name, Collectives(index, 2, gather=lambda own: asked.append(own) or own))
        step(rows, columns, step.method.init_state(), budget)
    total = sum(asked)
    parts = []
    for index in range(2):
        step, rows, columns, _ = step_of(name, Collectives(index, 2, gather=lambda own: total))
        step(rows, columns, step.method.init_state(), budget)
        parts.append(flat_gradient(step))
    assert_same_gradient(sum(parts) / 2, whole)


@pytest.mark.parametrize("name", ["beta_dpo", "alpha_dpo"])
@pytest.mark.parametrize("budget", [10**6, 40])
def test_micro_batch_scope_is_the_papers_loop(name, budget):
    """Three batches of 4 pairs: state moves after each, each loss is its own mean, gradients are averaged."""
    torch.manual_seed(1)
    model, rows, columns = problem()
    method = methods.resolve(name, {})
    step = Step(TokenScorer(model, "shared"), list(model.parameters()), method)
    outcome, _ = in_parts(step, rows, columns, method.init_state(), budget, 4)
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])
    state, total, losses = method.init_state(), 0, []
    for start in (0, 4, 8):
        torch.manual_seed(1)
        model, rows, columns = problem()
        here = slice(start, start + 4)
        step = Step(TokenScorer(model, "shared"), list(model.parameters()), method)
        own, _ = step(rows[here], {key: column[here] for key, column in columns.items()}, state, 10**6)
        state, total = own.state, total + torch.cat([p.grad.flatten() for p in model.parameters()]) / 3
        losses.append(own.losses)
    assert_same_gradient(flat, total)
    torch.testing.assert_close(outcome.losses, torch.cat(losses), rtol=1e-12, atol=1e-12)
    for key, value in state.items():
        torch.testing.assert_close(outcome.state[key], value, rtol=1e-12, atol=1e-12)


def test_plan_gives_every_process_as_many_micro_batches():
    plan = MicrobatchPlan.of([9, 1, 1, 1, 8], 2, 8, microbatches)
    assert len({len(batches) for batches in plan.microbatches}) == 1
    assert sorted(pair for batches in plan.microbatches for batch in batches for pair in batch) == [0, 1, 2, 3, 4]
    assert MicrobatchPlan.of([3], 2, 8, microbatches).microbatches == (((0,),), ((),))


@pytest.mark.parametrize(
    "loss_type",
    [
        pytest.param("sigmoid", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("ipo", "hinge")),
    ],
)
def test_training_reproduces_trl(shared, loss_type):
    """TRL 1.16's own 15 steps on the same ids in the same order: loss and gradient norm to 1e-4 relative."""
    from transformers import AutoModelForCausalLM

    golden = json.loads((shared / "data/golden/trl_trajectories.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(shared / "data/models/hh-llama-2.8M", dtype=torch.float32).eval()
    initial = [p.detach().clone() for p in model.parameters()]
    rows = [
        PromptRow(
            *(
                np.array(p["prompt_ids"], np.int32),
                tuple(np.array(p[k], np.int32) for k in ("chosen_ids", "rejected_ids")),
            )
        )
        for p in golden["pairs"]
    ]
    scorer = TokenScorer(model, "shared")
    method = methods.resolve({"sigmoid": "dpo"}.get(loss_type, loss_type), {"beta": 0.1})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0)
    step = Step(scorer, list(model.parameters()), method)
    with torch.no_grad():
        reference = torch.cat([scorer(rows[i : i + 4]).sums() for i in range(0, 60, 4)])
    columns = {
        "ref_chosen_logps": reference[0::2],
        "ref_rejected_logps": reference[1::2],
        "chosen_len": torch.tensor([len(r.completions[0]) for r in rows]).double(),
        "rejected_len": torch.tensor([len(r.completions[1]) for r in rows]).double(),
    }
    for number, expected in enumerate(golden["runs"][loss_type]["steps"]):
        now = slice(4 * number, 4 * number + 4)
        outcome, policy = step(rows[now], {k: v[now] for k, v in columns.items()}, {}, 1024)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert outcome.loss.item() == pytest.approx(expected["loss"], rel=1e-4), number
        assert float(norm) == pytest.approx(expected["grad_norm"], rel=1e-4), number
        assert float(policy["policy_chosen_logps"].mean()) == pytest.approx(expected["logps/chosen"], rel=1e-5)
        optimizer.step()
        optimizer.zero_grad()
    moved = sum(float((p.detach() - q).square().sum()) for p, q in zip(model.parameters(), initial, strict=True)) ** 0.5
    assert moved == pytest.approx(golden["runs"][loss_type]["weights_moved_l2"], rel=1e-3)
