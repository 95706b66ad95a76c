"""The public vectors: outputs of the papers' own code (MinorDPO and MinorSFT: of their formulae), float64, rtol 1e-6.

Inputs are summed log-probs and lengths. A gradient that a vector gives for a per-token average is divided by the
length to compare with ours, which is for the sum.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from method_vectors import NAMES, columns_of, equal, equal_gradients, leaves_of, pair_columns
from torch import Tensor

from scoreonce.pipeline import methods


@pytest.fixture(scope="module")
def vectors(shared: Path) -> Any:
    return json.loads((shared / "vectors" / "methods.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["beta_dpo_single_process", "beta_dpo_filter_only_a0", "beta_dpo_beta_only_no_filter"])
def test_beta_dpo_over_consecutive_batches(vectors: Any, name: str) -> None:
    """State after each batch, beta, kept pairs, losses and gradients. Without filter nothing is drawn."""
    section = vectors["beta_dpo"][name]
    given = section["hyperparameters"]
    method = methods.resolve("beta_dpo", {"beta": given["beta0"], "a": given["a"], "keep": 1 - given["mode_weight"]})
    state = method.init_state()
    for batch in section["batches"]:
        columns, expected = columns_of(batch["inputs"]), batch["expected"]
        draws = expected.get("exponential_draws", [1.0] * len(expected["gap_local"]))
        outcome = method.run({**columns, "exponential_draws": torch.tensor(draws, dtype=torch.float64)}, state)
        outcome.loss.backward()
        state = outcome.state
        equal(state["gap_mean"], expected["ema_gap_mean"])
        equal(state["gap_std"], expected["ema_gap_std"])
        equal(outcome.margin, expected["gap_local"])
        equal(outcome.beta, [expected["beta_used"]] * len(outcome.beta))
        equal(outcome.weight, expected["keep_mask"])
        equal(outcome.losses, expected["per_pair_losses_unmasked"])
        equal(outcome.loss, expected["loss"])
        equal_gradients(columns, expected["grad_pi_w"], expected["grad_pi_l"])


def test_beta_dpo_switched_off_is_dpo(vectors: Any) -> None:
    """mode_loss = "mean" of the beta-DPO code is plain DPO."""
    for batch in vectors["beta_dpo"]["beta_dpo_plain_dpo_mode_mean"]["batches"]:
        columns, expected = columns_of(batch["inputs"]), batch["expected"]
        outcome = methods.apply("dpo", columns, beta=0.1)
        outcome.loss.backward()
        equal(outcome.losses, expected["per_pair_losses_unmasked"])
        equal(outcome.loss, expected["loss"])
        equal_gradients(columns, expected["grad_pi_w"], expected["grad_pi_l"])


@pytest.mark.parametrize(
    "name",
    [
        "alpha_dpo_llama3_8b_instruct",
        "alpha_dpo_label_smoothing_0.1",
        "alpha_dpo_alpha0_equals_simpo",
        "alpha_dpo_ln_false",
    ],
)
def test_alpha_dpo_over_consecutive_batches(vectors: Any, name: str) -> None:
    section = vectors["alpha_dpo"][name]
    given = section["hyperparameters"]
    settings = {key: given[key] for key in ("beta", "gamma_beta_ratio", "alpha", "label_smoothing") if key in given}
    averages = given.get("ln", True)
    method = methods.resolve("alpha_dpo", {**settings, "normalisation": "average" if averages else "sum"})
    state = method.init_state()
    for batch in section["batches"]:
        columns, expected = columns_of(batch["inputs"]), batch["expected"]
        outcome = method.run(columns, state)
        outcome.loss.backward()
        state = outcome.state
        equal(state["normalised_gap_mean"], expected["ema_mean_after_update"])
        equal(state["normalised_gap_std"], expected["ema_std_after_update"])
        equal(outcome.target_margin, expected["margin_over_beta"])
        equal(outcome.losses, expected["per_pair_losses"])
        equal(outcome.loss, expected["loss"])
        equal(outcome.chosen_rewards, expected["logged_chosen_rewards"])
        equal(outcome.rejected_rewards, expected["logged_rejected_rewards"])
        grads = ("grad_avg_pi_w", "grad_avg_pi_l") if "grad_avg_pi_w" in expected else ("grad_pi_w", "grad_pi_l")
        equal_gradients(columns, expected[grads[0]], expected[grads[1]], of_averages=averages)


def test_alpha_dpo_is_finite_where_the_original_is_nan(vectors: Any) -> None:
    """The vectors document NaN for policy = reference and for a single pair. Here z = 0: SimPO's loss, and a state
    that stays finite."""
    first = vectors["alpha_dpo"]["alpha_dpo_llama3_8b_instruct"]["batches"][0]["inputs"]
    columns = columns_of(first)
    equal_policy = {
        **columns,
        "ref_chosen_logps": columns["policy_chosen_logps"].detach(),
        "ref_rejected_logps": columns["policy_rejected_logps"].detach(),
    }
    single = {name: column.detach()[:1] for name, column in columns.items()}
    for name, given in (("equal_policy_and_reference", equal_policy), ("single_pair", single)):
        assert vectors["alpha_dpo"][f"alpha_dpo_degenerate_{name}"]["original_loss_is_nan"]
        outcome = methods.apply("alpha_dpo", given, beta=2.5, gamma_beta_ratio=0.6)
        simpo = methods.apply("simpo", given, beta=2.5, gamma_beta_ratio=0.6)
        assert torch.equal(outcome.losses, simpo.losses)
        assert all(torch.isfinite(value) for value in outcome.state.values())


@pytest.mark.parametrize("beta", [0.1, 0.04])
def test_minor_dpo(vectors: Any, beta: float) -> None:
    for batch in vectors["minor"]["minor_dpo"]["batches"]:
        columns, expected = columns_of(batch["inputs"]), batch["expected"][f"beta_{beta}"]
        outcome = methods.apply("minor_dpo", columns, beta=beta)
        outcome.loss.backward()
        equal(outcome.losses, expected["per_pair_losses"])
        equal(outcome.loss, expected["loss"])
        equal_gradients(columns, expected["grad_pi_w"], expected["grad_pi_l"])
        equal(methods.apply("dpo", columns, beta=beta).losses, expected["dpo_per_pair_losses"])


@pytest.mark.parametrize(("tie", "derivative"), [("clamp", "torch.clamp(min=0)"), ("relu", "torch.relu")])
def test_minor_dpo_at_the_tie(vectors: Any, tie: str, derivative: str) -> None:
    """d loss / d log pi(y_l) at c = 0 is beta sigmoid(0) d max(0, c) / dc = 0.1 * 0.5 * {1, 0}."""
    zeros = {name: torch.zeros(1, dtype=torch.float64) for name in NAMES if name.endswith("logps")}
    rejected = zeros["policy_rejected_logps"].clone().requires_grad_()
    methods.apply("minor_dpo", {**zeros, "policy_rejected_logps": rejected}, beta=0.1, tie=tie).loss.backward()
    expected = vectors["minor"]["minor_dpo_tie_subgradient"]["d_max_d_r_at_zero"][derivative]
    equal(rejected.grad, [0.05 * expected])


@pytest.mark.parametrize("beta", [0.1, 0.04])
def test_minor_sft(vectors: Any, beta: float) -> None:
    for batch in vectors["minor"]["minor_sft"]["batches"]:
        columns, expected = columns_of(batch["inputs"]), batch["expected"][f"beta_{beta}"]
        outcome = methods.apply("minor_sft", columns, beta=beta)
        outcome.loss.backward()
        equal(outcome.losses, expected["per_example_losses"])
        equal(outcome.loss, expected["loss"])
        equal(columns["policy_chosen_logps"].grad, expected["grad_sum_pi"])


# Names of vectors that are not those of the method: it, and settings that the vector's own leave open.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo_sigmoid": ("dpo", {}),
    "cdpo_label_smoothing_0.1": ("cdpo", {}),
    "dpo_js_divergence": ("f_dpo", {}),
    "dpo_alpha_divergence_0.5": ("f_dpo", {"divergence": "alpha"}),
    "ipo_summed": ("ipo", {"normalisation": "sum"}),
    "exo_pair_trl": ("exo_pair", {}),
    "exo_official_pref": ("exo_pair", {"target": "official"}),
    "sppo_hard_trl": ("sppo_hard", {}),
    "nca_official": ("nca", {}),
    "discopop_lrml": ("discopop", {}),
    "cpo_preference_term": ("cpo", {"cpo_alpha": 0.0}),
    "slic_hinge_no_reference": ("slic", {"lam": 0.0}),
    "rso_sigmoid_norm": ("rso", {}),
    "rso_hinge_norm": ("rso_hinge", {}),
    "bco_pair_trl_0_13_first_batch": ("bco", {}),
    "bco_pair_running_mean_3_batches": ("bco", {}),
    "aot_pair_own_inputs": ("aot_pair", {}),
    "aot_ref": ("aot", {}),
    "aot_ref_own_inputs": ("aot", {}),
    "sparsepo_given_masks": ("sparse_po", {}),
}


def named(key: str) -> tuple[str, dict[str, Any]]:
    return CASES.get(key, (key, {}))


def test_every_sequence_level_vector(vectors: Any) -> None:
    """Each hyperparameter of a vector is one of ours or a synonym."""
    section = vectors["all_sequence_level_methods"]
    assert len(section["methods"]) > 20
    for key, expected in section["methods"].items():
        columns = columns_of(section["inputs"])
        method, settings = named(key)
        outcome = methods.apply(method, columns, **settings, **expected["hyperparameters"])
        outcome.loss.backward()
        losses = outcome.losses
        equal(
            losses.sort().values if key.startswith("aot") else losses,
            sorted(expected["per_pair_losses"]) if key.startswith("aot") else expected["per_pair_losses"],
        )
        equal(outcome.loss, expected["loss"])
        equal_gradients(
            columns, expected["grad_w"], expected["grad_l"], of_averages="averages" in expected.get("note", "")
        )


@pytest.mark.parametrize("key", ["aot_pair_own_inputs", "aot_ref_own_inputs"])
def test_aot(vectors: Any, key: str) -> None:
    """The vector's losses are in sorted order, ours in that of the pairs: the same losses, and the same gradients."""
    section = vectors["all_sequence_level_methods"][key]
    columns, expected = columns_of(section["inputs"]), section["expected"]
    outcome = methods.apply(named(key)[0], columns, **section["hyperparameters"])
    outcome.loss.backward()
    equal(outcome.losses.sort().values, sorted(expected["per_pair_losses"]))
    equal(outcome.loss, expected["loss"])
    equal_gradients(columns, expected["grad_w"], expected["grad_l"])


def test_bco_over_consecutive_batches(vectors: Any) -> None:
    section = vectors["all_sequence_level_methods"]["bco_pair_running_mean_3_batches"]
    method = methods.resolve("bco", section["hyperparameters"])
    state = method.init_state()
    for batch in section["batches"]:
        outcome = method.run(columns_of({**section, **batch}), state)
        state = outcome.state
        equal(outcome.losses, batch["per_pair_losses"])


@pytest.mark.parametrize("name", ["tdpo1", "tdpo2", "ld_dpo", "sparsepo_given_masks", "wpo"])
def test_token_level(vectors: Any, name: str) -> None:
    """Columns worked out from the logits; TDPO's gradients all the way back to them."""
    section = vectors["token_level_methods"]
    inputs, expected = section["inputs"], section[name]
    columns = pair_columns(inputs)
    method, _ = named(name)
    known = methods.resolve(method, {}).hyperparameters
    outcome = methods.apply(
        method,
        columns,
        **{setting: value for setting, value in expected["hyperparameters"].items() if setting in known},
    )
    equal(outcome.losses, expected["per_pair_losses"])
    equal(outcome.loss, expected["loss"])
    if "weight" in expected:
        equal(outcome.losses / -torch.nn.functional.logsigmoid(0.01 * outcome.margin), expected["weight"])
    if "grad_policy_logits_chosen" in expected:
        equal(outcome.chosen_rewards, expected["logged_chosen_rewards"])
        equal(outcome.rejected_rewards, expected["logged_rejected_rewards"])
        outcome.loss.backward()
        for pair, chosen, rejected in zip(
            inputs, expected["grad_policy_logits_chosen"], expected["grad_policy_logits_rejected"], strict=True
        ):
            equal(pair["chosen"]["leaf"].grad, chosen)
            equal(pair["rejected"]["leaf"].grad, rejected)


def expect_epsilon(
    outcome: methods.Outcome, columns: dict[str, Tensor], expected: dict[str, Any], of: slice, share: float
) -> None:
    """One of the original's micro-batches, `share` of the step."""
    equal(outcome.beta[of], expected["per_pair_beta"])
    equal(outcome.losses[of], expected["per_pair_losses"])
    equal(outcome.chosen_rewards[of], expected["logged_chosen_rewards"])
    equal(outcome.rejected_rewards[of], expected["logged_rejected_rewards"])
    for side, key in (("chosen", "grad_sum_pi_w"), ("rejected", "grad_sum_pi_l")):
        gradient = columns[f"policy_{side}_logps"].grad
        assert gradient is not None
        # The original divides by the number of micro-batches, or leaves that to the trainer.
        scale = float(gradient[of][0]) / expected[key][0]
        assert scale == pytest.approx(share) or scale == pytest.approx(1.0)
        equal(gradient[of] / scale, expected[key])


@pytest.mark.parametrize("update", ["code", "paper"])
def test_epsilon_dpo_over_optimizer_steps(vectors: Any, update: str) -> None:
    """A step of ours is all micro-batches of the original's: the same decisions, losses and gradients, the same beta
    after it; the paper's update by what the vector says that it would give."""
    section = vectors["epsilon_dpo"]["epsilon_dpo_default_eps"]
    given = section["hyperparameters"]
    method = methods.resolve(
        "epsilon_dpo", {"beta_init": given["beta_init"], "epsilon": given["epsilon"], "update": update}
    )
    state = method.init_state()
    for step in section["optimizer_steps"]:
        state = {"epsilon_beta": torch.tensor(step["beta_before"], dtype=torch.float64)} if update == "paper" else state
        inputs = [pair for batch in step["micro_batches"] for pair in batch["inputs"]]
        columns = leaves_of(pair_columns(inputs, given["epsilon"]))
        outcome = method.run(columns, state)
        outcome.loss.backward()
        at, share = 0, 1 / len(step["micro_batches"])
        for batch in step["micro_batches"]:
            count = len(batch["inputs"])
            expect_epsilon(outcome, columns, batch["expected"], slice(at, at + count), share)
            at += count
        state = outcome.state
        after = "beta_after" if update == "code" else "beta_after_if_paper_mean_of_instance_betas"
        equal(state["epsilon_beta"], step[after])


def test_epsilon_dpo_in_evaluation(vectors: Any) -> None:
    section = vectors["epsilon_dpo"]["epsilon_dpo_eval"]
    given, expected = section["hyperparameters"], section["expected"]
    method = methods.resolve("epsilon_dpo", {"beta": given["beta_init"], "epsilon": given["epsilon"]})
    columns = leaves_of(pair_columns(section["inputs"], given["epsilon"]))
    outcome = method.run(columns, method.init_state(), training=False)
    outcome.loss.backward()
    expect_epsilon(outcome, columns, expected, slice(None), 1.0)
    equal(outcome.state["epsilon_beta"], expected["beta_after"])
