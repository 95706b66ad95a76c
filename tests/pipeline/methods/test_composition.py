"""Composing methods by name, and the four-part errors where that cannot be done."""

import json
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor

from scoreonce.pipeline import methods
from scoreonce.pipeline.errors import InputError
from scoreonce.pipeline.methods import METHODS
from scoreonce.pipeline.methods.hyperparameters import Allowed, Hyperparameter
from scoreonce.pipeline.methods.registry import PIECES, calibration, objective, selection

LOGPS = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps")


def columns(*names: str, count: int = 3) -> dict[str, Tensor]:
    return {name: torch.full((count,), -4.0) for name in names}


def refused(call: Any, *words: str) -> None:
    with pytest.raises(InputError) as raised:
        call()
    for word in words:
        assert word in str(raised.value), str(raised.value)


def test_what_each_method_reads() -> None:
    lens = {"chosen_len", "rejected_len"}
    reads = {name: set(method.reads) for name, method in METHODS.items()}
    assert reads == {
        "dpo": set(LOGPS), "ipo": {*LOGPS, *lens}, "hinge": set(LOGPS), "simpo": {*LOGPS[:2], *lens},
        "beta_dpo": set(LOGPS), "alpha_dpo": {*LOGPS, *lens}, "minor_dpo": set(LOGPS),
        "sft": {"policy_chosen_logps", "chosen_len"},
        "minor_sft": {"policy_chosen_logps", "ref_chosen_logps", "chosen_len"}}
    assert [name for name, method in METHODS.items() if method.random] == ["beta_dpo"]
    assert [name for name, method in METHODS.items() if method.batch_coupled] == ["beta_dpo", "alpha_dpo"]
    assert [name for name, method in METHODS.items() if method.init_state()] == ["beta_dpo", "alpha_dpo"]


def test_defaults_of_the_named_methods() -> None:
    assert METHODS["dpo"].hyperparameters == {"beta": 0.1, "label_smoothing": 0.0}
    assert METHODS["simpo"].hyperparameters == {"beta": 2.0, "gamma_beta_ratio": 0.5, "label_smoothing": 0.0,
                                                "normalisation": "average"}
    assert METHODS["beta_dpo"].hyperparameters == {"beta": 0.1, "a": 0.6, "beta_floor": 1e-3, "keep": 0.8,
                                                   "momentum": 0.9, "label_smoothing": 0.0}
    assert METHODS["alpha_dpo"].hyperparameters == {"beta": 2.5, "alpha": 0.2, "gamma_beta_ratio": 0.6, "momentum": 0.9,
                                                    "label_smoothing": 0.0, "normalisation": "average"}
    assert METHODS["sft"].hyperparameters == {}


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


@pytest.mark.parametrize(("pieces", "reason"), [
    ({"name": "dpo", "calibration": "alpha_margin"}, "alpha_margin sets target_margin, and dpo reads none"),
    ({"name": "sft", "calibration": "batch_beta"}, "batch_beta sets beta, and sft reads none"),
    ({"name": "sft", "selection": "gaussian_gap"}, "gaussian_gap compares chosen with rejected completions"),
    ({"name": "minor_sft", "calibration": "batch_beta"}, "minor_sft trains on the chosen ones alone"),
    ({"name": "beta_dpo", "objective": "sft"}, "batch_beta sets beta, and sft reads none"),
])
def test_senseless_combinations_are_refused_with_the_reason(pieces: dict[str, str], reason: str) -> None:
    refused(lambda: methods.resolve(pieces.get("name"), {}, pieces.get("objective"), pieces.get("calibration"),
                                    pieces.get("selection")), "makes no sense with", reason)


def test_unknown_names() -> None:
    refused(lambda: methods.resolve("beta-dpo", {}), "no such method", "Did you mean 'beta_dpo'?", "alpha_dpo")
    refused(lambda: methods.resolve(None, {}), "no such method")
    refused(lambda: methods.resolve(None, {}, objective="ipoo"), "no such objective", "Did you mean 'ipo'?")
    refused(lambda: methods.resolve("dpo", {}, calibration="batch_betas"), "no such calibration", "'batch_beta'")
    refused(lambda: methods.resolve("dpo", {}, selection="gausian_gap"), "no such selection", "'gaussian_gap'")


@pytest.mark.parametrize(("name", "settings", "words"), [
    ("dpo", {"bta": 0.1}, ("dpo has no hyperparameter bta", "Did you mean 'beta'?")),
    ("dpo", {"keep": 0.5}, ("dpo has no hyperparameter keep", "beta, label_smoothing")),
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
    ("beta_dpo", {"beta_floor": 0}, ("the least beta",)),
    ("simpo", {"gamma_beta_ratio": -1}, ("gamma_beta_ratio = -1",)),
    ("alpha_dpo", {"alpha": -1}, ("alpha = -1",)),
    ("minor_dpo", {"tie": "max"}, ("one of 'clamp', 'relu'",)),
])
def test_bad_hyperparameters(name: str, settings: dict[str, Any], words: tuple[str, ...]) -> None:
    refused(lambda: methods.resolve(name, settings), *words)


@pytest.mark.parametrize(("name", "missing", "words"), [
    ("dpo", "ref_rejected_logps", ("ref_rejected_logps", "scoreonce score")),
    ("dpo", "policy_chosen_logps", ("policy_chosen_logps", "forward pass")),
    ("beta_dpo", "policy_chosen_logps", ("policy_chosen_logps", "forward pass")),
    ("ipo", "chosen_len", ("chosen_len", "scoreonce prepare")),
])
def test_a_missing_column_says_where_it_comes_from(name: str, missing: str, words: tuple[str, ...]) -> None:
    given = columns(*(METHODS[name].reads - {missing}))
    refused(lambda: methods.apply(name, given), "needs a column that is not there", *words)


def test_a_misspelt_column_is_recognised() -> None:
    given = columns(*LOGPS[:3], "ref_rejected_logp")
    refused(lambda: methods.apply("dpo", given), "ref_rejected_logps", "Did you mean 'ref_rejected_logp'?")


def test_draws_are_asked_for_where_a_method_is_random() -> None:
    method = METHODS["beta_dpo"]
    refused(lambda: method.run(columns(*LOGPS), method.init_state()), "exponential_draws", "methods.apply")


def test_shapes_and_state_are_checked() -> None:
    uneven = columns(*LOGPS) | columns("ref_chosen_logps", count=2)
    refused(lambda: methods.apply("dpo", uneven), "(3,)", "(2,)", "ref_chosen_logps")
    tokens = {name: torch.zeros(2, 5) for name in LOGPS}
    refused(lambda: methods.apply("dpo", tokens), "(2, 5)", "sum token log-probs")
    refused(lambda: methods.apply("dpo", columns(*LOGPS, count=0)), "at least one pair")
    partial = {"gap_mean": torch.tensor(0.0)}
    refused(lambda: methods.apply("beta_dpo", columns(*LOGPS), state=partial), "gap_std", "init_state")


def test_a_column_may_be_one_number_for_the_step() -> None:
    given = columns(*LOGPS) | {"chosen_len": torch.tensor(2), "rejected_len": torch.tensor(4)}
    assert methods.apply("ipo", given).losses.shape == (3,)


def test_a_misspelt_column_in_a_signature_fails_at_import() -> None:
    def mine(chosen_logratio: Tensor, beta: Tensor) -> Tensor:
        return beta * chosen_logratio

    refused(lambda: objective()(mine), "chosen_logratio", "Did you mean 'chosen_logratios'?", "mine")
    assert "mine" not in PIECES["objective"]


def test_a_piece_cannot_read_what_is_made_after_it() -> None:
    def by_beta(beta: Tensor) -> Tensor:
        return beta

    refused(lambda: selection(batch_coupled=False)(by_beta), "later in the chain")

    def by_loss(loss: Tensor) -> Tensor:
        return loss

    refused(lambda: calibration("beta", batch_coupled=False)(by_loss), "later in the chain")


def test_text_is_no_column_of_numbers() -> None:
    def by_prompt(prompt: Tensor) -> Tensor:
        return prompt

    refused(lambda: selection(batch_coupled=False)(by_prompt), "prompt")


def test_two_pieces_of_one_name_are_refused() -> None:
    def dpo(margin: Tensor) -> Tensor:
        return margin

    refused(lambda: objective()(dpo), "There are two of the objective 'dpo'")


def test_whole_number_hyperparameters() -> None:
    count = Hyperparameter.of("count", Annotated[int, Allowed("how many", at_least=1)], 4)
    assert count.check(3.0, "mine") == 3
    refused(lambda: count.check(2.5, "mine"), "a whole number at least 1")
    refused(lambda: count.check(0, "mine"), "how many")


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
