"""Every policy column by hand, and what a method's columns ask of the forward pass and of the reference."""

import pytest
import torch

from scoreonce.pipeline.head.token_scores import CachedTokens, Perturbed, TokenMasks, TokenScores, TokenStatistics
from scoreonce.pipeline.methods import METHODS
from scoreonce.pipeline.training.policy_columns import DECLARED, PolicyColumns
from scoreonce.schemas.columns import COLUMNS
from scoreonce.stages.commands.listing import methods as listed


def test_every_policy_column_is_declared():
    assert set(DECLARED) == {name for name in COLUMNS if name.startswith("policy_")}


# One pair whose completions have 3, 1 and 2 tokens: chosen, rejected, mismatched.
LENGTHS = torch.tensor([3, 1, 2])
LOGPS = torch.tensor([-1.0, -2.0, -4.0, -8.0, -16.0, -32.0], requires_grad=True)
TENTHS = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
SCORES = TokenScores(
    LOGPS,
    LENGTHS,
    TokenStatistics(TENTHS, -TENTHS, TENTHS > 0),
    kl=10 * TENTHS,
    reference_logps=torch.full((6,), -3.0),
    perturbed=Perturbed(-2 * TENTHS, -3 * TENTHS, (-4 * TENTHS).bfloat16()),
    masks=TokenMasks(torch.tensor([0.0, 1.0, 2.0, 3.0, 9.0, 9.0]), torch.tensor([1.0, 0.0, 0.0, 2.0, 9.0, 9.0])),
    cached=CachedTokens(
        torch.tensor([-1.5, -2.0, -1.0, -5.0, -9.0, -9.0]), (-1.0, 0.25), torch.tensor([2.0, 1.0, 0.5, 0.1, 9.0, 9.0])
    ),
)
BY_HAND = {
    "policy_chosen_logps": -7.0,
    "policy_rejected_logps": -8.0,
    "policy_kl_logps": -48.0,
    "policy_chosen_prefix_logps": -1.0,  # the rejected completion has one token
    "policy_rejected_prefix_logps": -8.0,
    "policy_chosen_collision_logps": -0.6,
    "policy_rejected_collision_logps": -0.4,
    "policy_chosen_entropy": 0.6,
    "policy_rejected_entropy": 0.4,
    "policy_chosen_plus_logps": -1.2,
    "policy_rejected_plus_logps": -0.8,
    "policy_chosen_minus_logps": -1.8,
    "policy_rejected_minus_logps": -1.2,
    "policy_chosen_rounded_logps": -2.40625,  # -2.4 is between the bfloat16 numbers -2.390625 and -2.40625
    "policy_rejected_rounded_logps": -1.6015625,
    "policy_chosen_forward_kl": 6.0,
    "policy_rejected_forward_kl": 4.0,
    "policy_chosen_masked_logratios": 0.0 * 2 + 1.0 * 1 + 2.0 * -1,
    "policy_rejected_masked_logratios": 3.0 * -5,
    "policy_chosen_masked_forward_kl": 1.0,
    "policy_rejected_masked_forward_kl": 8.0,
    "policy_chosen_clamped_logratios": 0.25 + 0.0 - 1.0,  # of 0.5, 0 and -3
    "policy_rejected_clamped_logratios": -1.0,  # of -3
    "policy_chosen_weighted_logratios": 2.0 * 0.5 + 0.0 - 0.5 * 3,
    "policy_rejected_weighted_logratios": 0.1 * -3,
    "policy_reward_mask_l1": 6.0,  # of chosen and rejected
    "policy_kl_mask_l1": 3.0,
}


def test_each_column_by_hand():
    made = PolicyColumns.of(DECLARED).from_scores(SCORES)
    assert {name: column.tolist() for name, column in made.items()} == {
        name: pytest.approx([value], abs=1e-6) for name, value in BY_HAND.items()
    }
    flowing = {name for name, column in made.items() if column.requires_grad}
    assert flowing == {
        f"policy_{side}_{kind}"
        for side in ("chosen", "rejected")
        for kind in ("logps", "prefix_logps", "masked_logratios", "clamped_logratios", "weighted_logratios")
    }


def test_completions_follow_from_what_is_read():
    assert PolicyColumns.of(["policy_chosen_logps", "ref_chosen_logps"]).completions == ("chosen",)
    kto = PolicyColumns.of(METHODS["kto"].reads)
    assert kto.completions == ("chosen", "rejected", "mismatched")
    assert kto.without_mismatched().completions == ("chosen", "rejected")
    assert PolicyColumns.of(["policy_kl_mask_l1"]).completions == ("chosen", "rejected")


@pytest.mark.parametrize(
    ("method", "cell"),
    [
        ("epsilon_dpo", "`ref_chosen_logps`, `ref_rejected_logps`, the reference's hidden states or top-k log-probs"),
        ("tdpo1", "`ref_chosen_logps`, `ref_rejected_logps`, the reference's hidden states or top-k log-probs"),
        ("tdpo2", "`ref_chosen_logps`, `ref_rejected_logps`, the reference's hidden states or top-k log-probs"),
        ("sparse_po", "the reference's hidden states"),
        ("mapo", "the reference's hidden states"),
        ("kto", "`ref_chosen_logps`, `ref_kl_logps`, `ref_rejected_logps`, the mismatched completion"),
        ("dpo", "`ref_chosen_logps`, `ref_rejected_logps`"),
        ("wpo", "`chosen_len`, `ref_chosen_logps`, `ref_rejected_logps`, `rejected_len`"),
        ("humanline", "`ref_chosen_logps`, `ref_rejected_logps`, the reference's log-prob of each token"),
        (
            "tis_dpo",
            "`ref_chosen_logps`, `ref_rejected_logps`, the reference's log-prob of each token, "
            "token log-probs of `plus`, token log-probs of `minus`",
        ),
        ("slic", "nothing"),
    ],
)
def test_the_table_says_what_is_read_from_the_cache(method, cell):
    row = listed(method, "markdown").splitlines()[-1]
    assert row.split(" | ")[3] == cell
