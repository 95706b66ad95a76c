"""The public vectors of the newer methods: outputs of the authors' functions where there are any, float64, rtol 1e-6.

Gradients are for sums. Where a vector names a setting otherwise than we do, `resolved` translates it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from method_vectors import columns_of, equal, equal_gradients

from scoreonce.pipeline import methods
from scoreonce.pipeline.head.token_scores import CachedTokens, TokenScores
from scoreonce.pipeline.methods import Method
from scoreonce.pipeline.methods.papers.dpo_shift import shift
from scoreonce.pipeline.methods.papers.tis_dpo import token_weights
from scoreonce.pipeline.training.policy_columns import PolicyColumns

PREFIXES = ("alpha_po", "simper", "dr_dpo", "dpo_shift", "h_dpo", "bpo", "amapo", "kl_dpo", "ropo")
SIDES = ("chosen", "rejected")
BATCHES = ("six pairs", "batch_2", "policy_equals_reference", "single_pair")


@pytest.fixture(scope="module")
def vectors(shared: Path) -> Any:
    return json.loads((shared / "vectors" / "newer_methods.json").read_text(encoding="utf-8"))


def resolved(key: str, given: dict[str, Any]) -> Method:
    """Our method and settings of a vector: gamma is beta times a ratio, and two settings are booleans there."""
    settings = dict(given)
    if "gamma" in settings:
        settings["gamma_beta_ratio"] = settings.pop("gamma") / settings["beta"]
    if settings.pop("normalise", False):
        settings["reweighting"] = "normalised"
    if not settings.pop("length_norm", True):
        settings["normalisation"] = "sum"
    if "base" in settings:
        return methods.resolve(f"gamma_{settings.pop('base')}", settings)
    return methods.resolve(next(prefix for prefix in PREFIXES if key.startswith(prefix)), settings)


@pytest.mark.parametrize("batch", BATCHES)
def test_every_sequence_level_vector(vectors: Any, batch: str) -> None:
    section = vectors["all_sequence_level_methods"]
    section = section.get(batch, section)
    assert len(section["methods"]) > 15
    for key, expected in section["methods"].items():
        columns = columns_of(section["inputs"])
        method = resolved(key, expected["hyperparameters"])
        outcome = method.run(columns, method.init_state())
        # JSON has no infinity: a pair that overflows there is finite here, and has no gradient.
        there = [index for index, loss in enumerate(expected["per_pair_losses"]) if loss is not None]
        equal(outcome.losses[there], [expected["per_pair_losses"][index] for index in there])
        if len(there) == len(outcome.losses):
            outcome.loss.backward()
            equal(outcome.loss, expected["loss"])
            equal_gradients(columns, expected["grad_w"], expected["grad_l"])
        assert outcome.losses.isfinite().all()
        if "target_margin" in expected:
            equal(outcome.target_margin * expected["hyperparameters"]["beta"], expected["target_margin"])
        if key.startswith("amapo"):
            equal(outcome.target_margin * expected["hyperparameters"]["beta"], expected["margin"])


def test_the_schedules_of_dpo_shift(vectors: Any) -> None:
    section = vectors["all_sequence_level_methods"]["dpo_shift_schedules"]
    for schedule in ("increase_linear", "decrease_linear"):
        for step, expected in enumerate(section[schedule]):
            progress = torch.tensor(step / section["T"], dtype=torch.float64)
            equal(shift(progress, schedule, 0.9, section["min"], section["max"]), expected)


def test_gamma_po_over_consecutive_batches(vectors: Any) -> None:
    section = vectors["all_sequence_level_methods"]["gamma_po_queue"]
    given = section["hyperparameters"]
    method = resolved("gamma_po", given)
    queue = torch.tensor(section["queue_before"], dtype=torch.float64)
    state = method.init_state() | {"policy_gap_queue": queue}
    for batch in section["batches"]:
        columns = columns_of(batch["inputs"])
        outcome = method.run(columns, state)
        outcome.loss.backward()
        state = outcome.state
        equal(outcome.target_margin * given["beta"], batch["target_margin"])
        equal(outcome.losses, batch["per_pair_losses"])
        equal(outcome.loss, batch["loss"])
        equal_gradients(columns, batch["grad_w"], batch["grad_l"])
        equal(state["policy_gap_queue"], batch["queue_after"])


@pytest.mark.parametrize("key", ["humanline_dpo_default", "tis_dpo_rank_no_kl"])
def test_token_level_vectors(vectors: Any, key: str) -> None:
    """The columns by the forward pass's own functions, from the vector's logits; gradients all the way back to them."""
    section = vectors["token_level_methods"]
    expected = section[key]
    given = expected["hyperparameters"]
    policy, reference, lengths, leaves = [], [], [], []
    for pair in section["inputs"]:
        for side in SIDES:
            logits = torch.tensor(pair[side]["policy_logits"], dtype=torch.float64, requires_grad=True)
            tokens = torch.tensor(pair[side]["tokens"])[:, None]
            leaves.append(logits)
            policy.append(logits.log_softmax(-1).gather(-1, tokens)[:, 0])
            other = torch.tensor(pair[side]["ref_logits"], dtype=torch.float64)
            reference.append(other.log_softmax(-1).gather(-1, tokens)[:, 0])
            lengths.append(len(tokens))
    if "weights" in given:
        each = [torch.tensor(pair[side], dtype=torch.float64) for pair in given["weights"] for side in SIDES]
        cached = CachedTokens(torch.cat(reference), None, torch.cat(each))
        method = methods.resolve("tis_dpo", {"beta": given["beta"]})
    else:
        cached = CachedTokens(torch.cat(reference), (given["log_eps_P"], given["log_eps_R"]))
        method = methods.resolve("humanline", given)
    scored = TokenScores(torch.cat(policy), torch.tensor(lengths), cached=cached)
    sums = torch.stack([tokens.sum() for tokens in reference])
    columns = PolicyColumns.of(method.reads).from_scores(scored)
    columns |= {"ref_chosen_logps": sums[::2], "ref_rejected_logps": sums[1::2]}
    outcome = method.run(columns, {})
    outcome.loss.backward()
    equal(outcome.losses, expected["per_pair_losses"])
    equal(outcome.loss, expected["loss"])
    for leaf, wanted in zip(
        leaves,
        (expected[f"grad_policy_logits_{side}"][pair] for pair in range(len(section["inputs"])) for side in SIDES),
        strict=True,
    ):
        equal(leaf.grad, wanted)


@pytest.mark.parametrize(
    ("key", "form"), [("tis_weights_rank_based_0.7_1.3", "rank"), ("tis_weights_exp_k1_mu1_L-0.5_U1.5", "exp")]
)
def test_token_weights_of_tis_dpo(vectors: Any, key: str, form: str) -> None:
    """The vectors weight every token; the last one's 0, EOS's, is another matter."""
    section = vectors["token_level_methods"]
    settings = {"form": form, "least": 0.7, "most": 1.3, "last_token": "weighted"}
    for scores, expected in zip(section["tis_scores_log_pi_plus_minus"], section[key], strict=True):
        for side in SIDES:
            ratios = torch.tensor(scores[side], dtype=torch.float64)
            equal(token_weights(ratios, chosen=side == "chosen", **settings), expected[side])
