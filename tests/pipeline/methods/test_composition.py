"""Composing methods by name, and the four-part errors where that cannot be done."""

import json
import math
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor

from scoreonce.pipeline import methods
from scoreonce.pipeline.methods import METHODS
from scoreonce.pipeline.methods.pieces.hyperparameters import Allowed, Hyperparameter
from scoreonce.pipeline.methods.pieces.registry import PIECES, calibration, objective, selection
from scoreonce.schemas.errors import InputError

LOGPS = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps")


def columns(*names: str, count: int = 3) -> dict[str, Tensor]:
    return {name: torch.full((count,), -4.0) for name in names}


def assert_refused(call: Any, *words: str) -> None:
    with pytest.raises(InputError) as raised:
        call()
    for word in words:
        assert word in str(raised.value), str(raised.value)


def test_what_each_method_reads() -> None:
    lens, scores = {"chosen_len", "rejected_len"}, {"chosen_score", "rejected_score"}
    reads = {name: set(method.reads) for name, method in METHODS.items()}
    sums = {name for name, columns in reads.items() if columns == set(LOGPS)}
    assert sums == {
        "dpo",
        "beta_dpo",
        "minor_dpo",
        "robust",
        "hinge",
        "rso",
        "rso_hinge",
        "dpop",
        "f_dpo",
        "chi_po",
        "sppo_hard",
        "cal_dpo",
        "apo_zero",
        "apo_down",
        "exo_pair",
        "nca_pair",
        "bco",
        "bco_pair",
        "aot",
        "aot_pair",
        "discopop",
        "dr_dpo",
        "kl_dpo",
        "dpo_shift",
        "h_dpo",
        "ropo",
        "bpo",
    }
    assert {name for name, columns in reads.items() if columns == {*LOGPS, *lens}} == {
        "gamma_dpo",
        "dpo_norm",
        "alpha_dpo",
        "ipo",
        "r_dpo",
    }
    assert {name for name, columns in reads.items() if columns == {*LOGPS, *scores}} == {"odpo", "infonca"}
    assert {name for name, columns in reads.items() if not any(column.startswith("ref_") for column in columns)} == {
        "simpo",
        "repo",
        "slic",
        "orpo",
        "cpo",
        "sft",
        "sparse_po",
        "mapo",
        "simper",
        "alpha_po",
        "amapo",
        "gamma_simpo",
        "bpo_simpo",
    }
    assert reads["sft"] == {"policy_chosen_logps", "chosen_len"}
    assert reads["minor_sft"] == {"policy_chosen_logps", "ref_chosen_logps", "chosen_len"}
    assert reads["kto"] == {*LOGPS, "policy_kl_logps", "ref_kl_logps"}
    assert reads["mpo"] == {*LOGPS, "chosen_len"}
    assert reads["sppo"] == {*LOGPS, "chosen_preference", "rejected_preference"}


def test_which_methods_couple_pairs_draw_and_remember() -> None:
    assert [name for name, method in METHODS.items() if method.random] == ["beta_dpo"]
    assert {name for name, method in METHODS.items() if method.batch_coupled} == {
        "beta_dpo",
        "alpha_dpo",
        "cal_dpo",
        "bco",
        "aot",
        "aot_pair",
        "kto",
        "mpo",
        "dr_dpo",
        "kl_dpo",
        "amapo",
        "gamma_simpo",
        "gamma_dpo",
    }
    assert [name for name, method in METHODS.items() if method.scheduled] == ["dpo_shift"]
    assert {name: set(method.init_state()) for name, method in METHODS.items() if method.init_state()} == {
        "beta_dpo": {"gap_mean", "gap_std"},
        "alpha_dpo": {"normalised_gap_mean", "normalised_gap_std"},
        "epsilon_dpo": {"epsilon_beta"},
        "bco": {"mean_logratio", "mean_logratio_steps"},
        "mpo": {"mean_logratio", "mean_logratio_steps"},
        "gamma_simpo": {"policy_gap_queue", "policy_gap_steps"},
        "gamma_dpo": {"gap_queue", "gap_steps"},
    }
    assert METHODS["epsilon_dpo"].init_state()["epsilon_beta"] == 0.01


def test_which_columns_are_differentiated() -> None:
    policy = {"policy_chosen_logps", "policy_rejected_logps"}
    flows = {name: set(method.differentiable) for name, method in METHODS.items()}
    assert flows["dpo"] == flows["kto"] == flows["wpo"] == flows["epsilon_dpo"] == policy
    assert flows["tdpo1"] == {*policy, "policy_chosen_forward_kl", "policy_rejected_forward_kl"}
    assert flows["humanline"] == {"policy_chosen_clamped_logratios", "policy_rejected_clamped_logratios"} | policy
    assert flows["ld_dpo"] == {*policy, "policy_chosen_prefix_logps", "policy_rejected_prefix_logps"}


DIVERGENCE = {"divergence": "reverse_kl", "divergence_alpha": 0.5}


def test_defaults_of_the_named_methods() -> None:
    assert METHODS["dpo"].hyperparameters == {
        "beta": 0.1,
        "gamma_beta_ratio": 0.0,
        "label_smoothing": 0.0,
        **DIVERGENCE,
    }
    assert METHODS["simpo"].hyperparameters == {
        "beta": 2.0,
        "gamma_beta_ratio": 0.5,
        "label_smoothing": 0.0,
        "normalisation": "average",
    }
    assert METHODS["beta_dpo"].hyperparameters == {
        "beta": 0.1,
        "a": 0.6,
        "beta_floor": 1e-3,
        "keep": 0.8,
        "momentum": 0.9,
        "order": "code",
        "gamma_beta_ratio": 0.0,
        "label_smoothing": 0.0,
        **DIVERGENCE,
    }
    assert METHODS["alpha_dpo"].hyperparameters == {
        "beta": 2.5,
        "alpha": 0.2,
        "gamma_beta_ratio": 0.6,
        "momentum": 0.9,
        "label_smoothing": 0.0,
        "normalisation": "average",
        "z_score": "running",
        "alpha_scale": "code",
        **DIVERGENCE,
    }
    assert METHODS["epsilon_dpo"].hyperparameters["beta"] == 0.01
    assert METHODS["sft"].hyperparameters == {}


@pytest.mark.parametrize(
    ("alias", "row", "settings"),
    [
        ("sigmoid", "dpo", {}),
        ("sigmoid_norm", "dpo_norm", {"beta": 0.1}),
        ("aot_unpaired", "aot_pair", {}),
        ("cdpo", "dpo", {"label_smoothing": 0.1}),
        ("exo", "exo_pair", {"beta": 0.5}),
        ("tdpo", "tdpo2", {}),
        ("rdpo", "robust", {"label_smoothing": 0.1}),
        ("lrml", "discopop", {}),
        ("alphapo", "alpha_po", {}),
        ("kldpo", "kl_dpo", {}),
        ("gamma_po", "gamma_simpo", {}),
        ("sba", "bpo", {"lam": -0.5}),
    ],
)
def test_an_alias_is_its_row_with_other_defaults(alias: str, row: str, settings: dict[str, Any]) -> None:
    method = methods.resolve(alias, {})
    assert method.name == row
    assert {name: method.hyperparameters[name] for name in settings} == settings
    assert methods.resolve(alias, {"beta": 0.7}).hyperparameters["beta"] == 0.7


def test_every_loss_type_of_trl_is_here_under_its_name() -> None:
    for name in (
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_unpaired",
        "apo_zero",
        "apo_down",
        "discopop",
        "sft",
        "sigmoid_norm",
    ):
        assert methods.resolve(name, {}).title


def test_other_names_of_a_hyperparameter() -> None:
    assert methods.resolve("dpop", {"lambda": 5}).hyperparameters["lam"] == 5
    assert methods.resolve("exo_pair", {"ls": 0.01, "beta_pi": 0.3}).hyperparameters["label_smoothing"] == 0.01
    assert methods.resolve("rso", {"gamma": 0.02}).hyperparameters["beta"] == 0.02
    assert methods.resolve("repo", {"gamma": 0.4}).hyperparameters["gamma_beta_ratio"] == 0.4
    assert methods.resolve("odpo", {"alpha": 0.5}).hyperparameters["alpha"] == 0.5
    assert_refused(lambda: methods.resolve("dpop", {"lambda": 5, "lam": 6}), "given twice", "lambda = 5", "lam = 6")
    assert_refused(lambda: methods.resolve("simpo", {"gamma": 0.5}), "no hyperparameter gamma", "gamma_beta_ratio")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tr_dpo", ("TR-DPO", "reference moves")),
        ("TR-DPO", ("TR-DPO", "reference moves")),
        ("ofs_dpo", ("second live policy",)),
        ("q_sharp", ("not offline preference optimisation",)),
        ("Q♯", ("not offline preference optimisation",)),
        ("diffusion_dpo", ("diffusion models",)),
        ("humanline_synced", ("reference moves", "clamp of token log-ratios")),
    ],
)
def test_methods_that_a_cache_cannot_train_are_refused_with_the_sentence(name: str, words: tuple[str, ...]) -> None:
    assert_refused(
        lambda: methods.resolve(name, {}), "cannot be trained from cached columns", *words, "scoreonce methods"
    )


def test_a_weighted_sum_of_objectives() -> None:
    """0.8 log 2 + 0.5 * 4 nats / 2 tokens = 1.554518, spelled in either way, and through aliases."""
    given = columns(*LOGPS) | {"chosen_len": torch.tensor(2)}
    for spelled in ("0.8*dpo + 0.5*sft", "8e-1 * sigmoid+0.5*sft", {"dpo": 0.8, "sft": 0.5}):
        outcome = methods.apply(None, given, objective=spelled, beta=0.3)
        assert abs(float(outcome.loss) - (0.8 * math.log(2) + 1)) < 1e-12
        assert outcome.beta[0] == 0.3
    assert methods.resolve(None, {}, objective="0.8*dpo + 0.5*sft").name == "0.8*dpo + 0.5*sft"
    assert methods.resolve("mpo", {}, objective="dpo").name == "dpo"


@pytest.mark.parametrize(
    ("spelled", "words"),
    [
        ("0.8*dpo + ", ("not a weighted sum",)),
        ("dpo + dpo", ("each objective once",)),
        ("0*dpo + sft", ("dpo = 0.0", "above 0")),
        ({"dpo": -1}, ("dpo = -1",)),
        ({"dpo": True}, ("dpo = True",)),
        ("0.5*dqo + sft", ("no such objective", "'dpo'")),
        ({"dpo": 1.0, "sigmoid": 1.0}, ("under two names",)),
        ("0.5*beta_dpo + sft", ("no such objective",)),
    ],
)
def test_bad_weighted_sums(spelled: Any, words: tuple[str, ...]) -> None:
    assert_refused(lambda: methods.resolve(None, {}, objective=spelled), *words)


def test_pieces_replace_those_of_a_named_method() -> None:
    method = methods.resolve("beta_dpo", {"beta": 1}, objective="ipo")
    assert method.name == "ipo+batch_beta+gaussian_gap"
    assert method.hyperparameters["beta"] == 1.0
    assert method.paper is None
    assert methods.resolve("beta_dpo", {}, selection="all").name == "dpo+batch_beta"


def test_pieces_that_are_a_named_method_get_its_name_and_paper() -> None:
    spelled = methods.resolve(None, {}, objective="dpo", calibration="batch_beta", selection="gaussian_gap")
    assert (spelled.name, spelled.paper) == ("beta_dpo", METHODS["beta_dpo"].paper)
    assert methods.resolve("alpha_dpo", {}, calibration="constant").hyperparameters == METHODS["simpo"].hyperparameters


def test_an_objective_brings_the_scale_of_its_beta() -> None:
    """SimPO's beta is 2, whichever method it replaces the objective of."""
    assert methods.resolve("dpo", {}, objective="simpo").hyperparameters["beta"] == 2.0
    assert methods.resolve("beta_dpo", {}, objective="simpo").hyperparameters["beta"] == 2.0
    mixed = methods.resolve("alpha_dpo", {}, objective="dpo", calibration="constant", selection="gaussian_gap")
    assert mixed.hyperparameters["beta"] == 0.1
    assert methods.resolve(None, {}, objective="sft").selection.name == "token_count"


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ({"name": "ipo", "calibration": "alpha_margin"}, "alpha_margin sets target_margin, and ipo reads none"),
        ({"name": "hinge", "calibration": "score_offset"}, "score_offset sets target_margin, and hinge reads none"),
        ({"name": "repo", "calibration": "perturbed_beta"}, "perturbed_beta sets beta, and repo reads none"),
        ({"name": "aot", "selection": "gaussian_gap"}, "aot compares completions of different pairs"),
        ({"name": "aot_pair", "calibration": "perturbed_beta"}, "aot_pair compares completions of different pairs"),
        ({"name": "sft", "calibration": "batch_beta"}, "batch_beta sets beta, and sft reads none"),
        ({"name": "sft", "selection": "gaussian_gap"}, "gaussian_gap compares chosen with rejected completions"),
        ({"name": "minor_sft", "calibration": "batch_beta"}, "minor_sft trains on the chosen ones alone"),
        ({"name": "beta_dpo", "objective": "sft"}, "batch_beta sets beta, and sft reads none"),
    ],
)
def test_senseless_combinations_are_refused_with_the_reason(pieces: dict[str, str], reason: str) -> None:
    assert_refused(
        lambda: methods.resolve(
            pieces.get("name"), {}, pieces.get("objective"), pieces.get("calibration"), pieces.get("selection")
        ),
        "makes no sense with",
        reason,
    )


def test_unknown_names() -> None:
    assert_refused(lambda: methods.resolve("beta-dpo", {}), "no such method", "Did you mean 'beta_dpo'?", "alpha_dpo")
    assert_refused(lambda: methods.resolve(None, {}), "no such method")
    assert_refused(lambda: methods.resolve(None, {}, objective="ipoo"), "no such objective", "Did you mean 'ipo'?")
    assert_refused(lambda: methods.resolve("dpo", {}, calibration="batch_betas"), "no such calibration", "'batch_beta'")
    assert_refused(lambda: methods.resolve("dpo", {}, selection="gausian_gap"), "no such selection", "'gaussian_gap'")


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("dpo", {"bta": 0.1}, ("dpo has no hyperparameter bta", "Did you mean 'beta'?")),
        ("dpo", {"keep": 0.5}, ("dpo has no hyperparameter keep", "beta, gamma_beta_ratio, label_smoothing")),
        ("dpo", {"beta": 0}, ("beta = 0", "a number above 0")),
        ("dpo", {"beta": -0.1}, ("beta = -0.1",)),
        ("dpo", {"beta": "0.1x"}, ("beta = '0.1x'",)),
        ("dpo", {"beta": True}, ("beta = True",)),
        ("dpo", {"beta": float("nan")}, ("beta = nan",)),
        ("dpo", {"beta": float("inf")}, ("beta = inf",)),
        ("dpo", {"label_smoothing": 0.5}, ("at least 0 and below 0.5",)),
        ("ipo", {"normalisation": "averge"}, ("Did you mean 'average'?", "one of 'average', 'sum'")),
        ("ipo", {"normalisation": 1}, ("normalisation = 1",)),
        ("beta_dpo", {"keep": 0}, ("above 0 and at most 1",)),
        ("beta_dpo", {"momentum": 1}, ("at least 0 and below 1",)),
        ("beta_dpo", {"beta_floor": 0}, ("the lower bound of a batch's beta",)),
        ("simpo", {"gamma_beta_ratio": -1}, ("gamma_beta_ratio = -1",)),
        ("alpha_dpo", {"alpha": -1}, ("alpha = -1",)),
        ("minor_dpo", {"tie": "max"}, ("one of 'clamp', 'relu'",)),
        ("robust", {"label_smoothing": 0.5}, ("below 0.5",)),
        ("exo_pair", {"label_smoothing": 0}, ("above 0",)),
        ("sppo", {"divergence": "js"}, ("sppo has no hyperparameter divergence",)),
        ("dpo", {"divergence": "jss"}, ("Did you mean 'js'?",)),
        ("discopop", {"tau": 2}, ("at most 1",)),
    ],
)
def test_bad_hyperparameters(name: str, settings: dict[str, Any], words: tuple[str, ...]) -> None:
    assert_refused(lambda: methods.resolve(name, settings), *words)


@pytest.mark.parametrize(
    ("name", "missing", "words"),
    [
        ("dpo", "ref_rejected_logps", ("ref_rejected_logps", "scoreonce score")),
        ("dpo", "policy_chosen_logps", ("policy_chosen_logps", "forward pass")),
        ("beta_dpo", "policy_chosen_logps", ("policy_chosen_logps", "forward pass")),
        ("ipo", "chosen_len", ("chosen_len", "scoreonce prepare")),
        ("odpo", "chosen_score", ("chosen_score", "data.columns")),
        ("sppo", "rejected_preference", ("P(rejected beats",)),
        ("kto", "policy_kl_logps", ("another prompt's completion",)),
        ("wpo", "policy_chosen_collision_logps", ("log sum_v p(v)^2",)),
        ("tdpo1", "policy_chosen_forward_kl", ("full_vocab",)),
        ("ld_dpo", "ref_chosen_prefix_logps", ("scoreonce score",)),
        ("humanline", "policy_chosen_clamped_logratios", ("in the reference store", "sum it over")),
    ],
)
def test_a_missing_column_says_where_it_comes_from(name: str, missing: str, words: tuple[str, ...]) -> None:
    given = columns(*(METHODS[name].reads - {missing}))
    assert_refused(lambda: methods.apply(name, given), "needs a column that is not there", *words)


def test_a_setting_can_need_more_columns() -> None:
    reads = methods.resolve("epsilon_dpo", {"step_dtype": "bf16"}).reads
    assert reads - METHODS["epsilon_dpo"].reads == {"policy_chosen_rounded_logps", "policy_rejected_rounded_logps"}
    given = columns(*METHODS["epsilon_dpo"].reads)
    assert_refused(
        lambda: methods.apply("epsilon_dpo", given, step_dtype="bf16"), "policy_chosen_rounded_logps", "full_vocab"
    )


def test_a_misspelt_column_is_recognised() -> None:
    given = columns(*LOGPS[:3], "ref_rejected_logp")
    assert_refused(lambda: methods.apply("dpo", given), "ref_rejected_logps", "Did you mean 'ref_rejected_logp'?")


def test_draws_are_asked_for_where_a_method_is_random() -> None:
    method = METHODS["beta_dpo"]
    assert_refused(lambda: method.run(columns(*LOGPS), method.init_state()), "exponential_draws", "methods.apply")


def test_shapes_and_state_are_checked() -> None:
    uneven = columns(*LOGPS) | columns("ref_chosen_logps", count=2)
    assert_refused(lambda: methods.apply("dpo", uneven), "(3,)", "(2,)", "ref_chosen_logps")
    tokens = {name: torch.zeros(2, 5) for name in LOGPS}
    assert_refused(lambda: methods.apply("dpo", tokens), "(2, 5)", "sum token log-probs")
    assert_refused(lambda: methods.apply("dpo", columns(*LOGPS, count=0)), "at least one pair")
    partial = {"gap_mean": torch.tensor(0.0)}
    assert_refused(lambda: methods.apply("beta_dpo", columns(*LOGPS), state=partial), "gap_std", "init_state")


def test_a_column_may_be_one_number_for_the_step() -> None:
    given = columns(*LOGPS) | {"chosen_len": torch.tensor(2), "rejected_len": torch.tensor(4)}
    assert methods.apply("ipo", given).losses.shape == (3,)


def test_a_misspelt_column_in_a_signature_fails_at_import() -> None:
    def mine(chosen_logratio: Tensor, beta: Tensor) -> Tensor:
        return beta * chosen_logratio

    assert_refused(lambda: objective()(mine), "chosen_logratio", "Did you mean 'chosen_logratios'?", "mine")
    assert "mine" not in PIECES["objective"]


def test_a_piece_cannot_read_what_is_made_after_it() -> None:
    def by_beta(beta: Tensor) -> Tensor:
        return beta

    assert_refused(lambda: selection(batch_coupled=False)(by_beta), "later in the chain")

    def by_loss(loss: Tensor) -> Tensor:
        return loss

    assert_refused(lambda: calibration("beta", batch_coupled=False)(by_loss), "later in the chain")


def test_text_is_no_column_of_numbers() -> None:
    def by_prompt(prompt: Tensor) -> Tensor:
        return prompt

    assert_refused(lambda: selection(batch_coupled=False)(by_prompt), "prompt")


def test_two_pieces_of_one_name_are_refused() -> None:
    def dpo(margin: Tensor) -> Tensor:
        return margin

    assert_refused(lambda: objective()(dpo), "There are two of the objective 'dpo'")


def test_whole_number_hyperparameters() -> None:
    count = Hyperparameter.of("count", Annotated[int, Allowed("how many", at_least=1)], 4)
    assert count.check(3.0, "mine") == 3
    assert_refused(lambda: count.check(2.5, "mine"), "a whole number at least 1")
    assert_refused(lambda: count.check(0, "mine"), "how many")


def test_the_table_is_plain_data() -> None:
    table = methods.table()
    assert json.loads(json.dumps(table)) == table
    assert [row["name"] for row in table] == list(METHODS)
    beta_dpo = next(row for row in table if row["name"] == "beta_dpo")
    pieces = (beta_dpo["objective"], beta_dpo["calibration"], beta_dpo["selection"])
    assert pieces == ("dpo", "batch_beta", "gaussian_gap")
    assert beta_dpo["arxiv"] == "2407.08639"
    assert beta_dpo["meanings"]["keep"] == "the share of pairs kept in each step: a number above 0 and at most 1"
    assert all(set(row["meanings"]) == set(row["hyperparameters"]) for row in table)
    assert all(row["title"] and row["paper"] and row["venue"] for row in table)
