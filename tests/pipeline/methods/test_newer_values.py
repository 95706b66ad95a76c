"""Values worked out by hand for the newer methods, one test a paper; the arithmetic stands in each docstring."""

import math

import pytest
import torch
from method_batches import assert_near, log_sigmoid, losses, pairs, sigmoid, tensor
from torch import Tensor

from scoreonce.pipeline import methods
from scoreonce.pipeline.methods.papers.gamma_po import LARGEST_POOL, LONGEST_QUEUE, shared_margins
from scoreonce.pipeline.methods.papers.h_dpo import h_dpo


def gradient(columns: dict[str, Tensor], side: str) -> Tensor | None:
    return columns[f"policy_{side}_logps"].grad


def test_simper() -> None:
    """Policy -19 over 2 and -21 over 4 tokens: e^-5.25 - e^-9.5; d/d chosen -e^-9.5 / 2, d/d rejected e^-5.25 / 4."""
    columns = pairs([1], [-1], lens=(2, 4))
    outcome = methods.apply("simper", columns)
    outcome.loss.backward()
    assert_near(outcome.losses, math.exp(-5.25) - math.exp(-9.5))
    assert_near(gradient(columns, "chosen"), -math.exp(-9.5) / 2)
    assert_near(gradient(columns, "rejected"), math.exp(-5.25) / 4)
    assert_near(outcome.chosen_rewards, -9.5)


def test_alpha_po() -> None:
    """u = -1 and -2, alpha 0.5: r = 2 (1 - e^0.5), 2 (1 - e^1); h = 2 (2 (e - e^0.5) - 0.1) = x. dr/du = e^(-alpha u),
    over 2 tokens: d/d chosen sum = -2 sigmoid(-x) e^0.5 / 2, the rejected one's has e^1 and 4 tokens."""
    columns = {
        "policy_chosen_logps": tensor(-2).requires_grad_(),
        "policy_rejected_logps": tensor(-8).requires_grad_(),
        "chosen_len": tensor(2),
        "rejected_len": tensor(4),
    }
    logit = 2 * (2 * (math.e - math.exp(0.5)) - 0.1)
    outcome = methods.apply("alpha_po", columns, beta=2, alpha=0.5, gamma_beta_ratio=0.1)
    outcome.loss.backward()
    assert_near(outcome.losses, -log_sigmoid(logit))
    assert_near(gradient(columns, "chosen"), -2 * sigmoid(-logit) * math.exp(0.5) / 2)
    assert_near(gradient(columns, "rejected"), 2 * sigmoid(-logit) * math.e / 4)
    assert_near(outcome.chosen_rewards, 2 * 2 * (1 - math.exp(0.5)))


def test_alpha_po_at_zero_is_simpo_and_smooth_there() -> None:
    columns, settings = pairs([1], [-1], lens=(2, 4)), {"beta": 2.5, "gamma_beta_ratio": 0.4, "label_smoothing": 0.1}
    simpo = losses("simpo", columns, **settings).item()
    assert_near(losses("alpha_po", columns, alpha=0, **settings), simpo)
    assert losses("alpha_po", columns, alpha=1e-9, **settings).item() == pytest.approx(simpo, rel=1e-6)


def test_dr_dpo() -> None:
    """x = 1, -1: e^-loss = sigmoid(x), whose mean is 1/2, so that the loss of the step is log 2 for b = 1. The weights
    are sigmoid(1) and sigmoid(-1): d/da = -0.5 sigmoid(1) sigmoid(-1) for both."""
    columns = pairs([1, -1], [-1, 1])
    outcome = methods.apply("dr_dpo", columns, beta=0.5)
    outcome.loss.backward()
    assert_near(outcome.losses, -log_sigmoid(1), -log_sigmoid(-1))
    assert_near(outcome.loss, math.log(2))
    assert_near(gradient(columns, "chosen"), *[-0.5 * sigmoid(1) * sigmoid(-1)] * 2)


def test_dr_dpo_between_its_limits_and_without_underflow() -> None:
    """For a large b the mean, for a small one the least loss; both finite where exp(-loss / b) is 0 for every pair."""
    columns = pairs([-3000, -3001], [3000, 3000])
    mean, least = losses("dpo", columns).mean().item(), losses("dpo", columns).min().item()
    assert methods.apply("dr_dpo", columns, beta_prime=1e6).loss.item() == pytest.approx(mean)
    assert methods.apply("dr_dpo", columns, beta_prime=1e-3).loss.item() == pytest.approx(least, rel=1e-5)


def test_a_filtered_pair_has_no_part_in_a_soft_minimum() -> None:
    """Of margins 0 and 50 at a running mean of 0 the first is kept: log 2, and no gradient for the other."""
    columns = pairs([0, 50], [0, 0])
    state = {"gap_mean": torch.tensor(0.0), "gap_std": torch.tensor(0.1)}
    method = methods.resolve("dr_dpo", {"keep": 0.5}, selection="gaussian_gap")
    outcome = method.run(columns | {"exponential_draws": tensor(1, 1)}, state)
    outcome.loss.backward()
    assert_near(outcome.loss, math.log(2))
    assert_near(gradient(columns, "chosen"), -0.05, 0)


def test_kl_dpo() -> None:
    """x = 1, -1: losses l and l + 1, half a nat from their mean: weights e^-0.5 and e^0.5 for tau 1; for tau 0.1, e^-5
    and 10 for e^5. Normalised: 2 sigmoid(-1), 2 sigmoid(1). No gradient flows through a weight."""
    low, high = -log_sigmoid(1), -log_sigmoid(-1)
    columns = pairs([1, -1], [-1, 1])
    outcome = methods.apply("kl_dpo", columns, beta=0.5)
    outcome.loss.backward()
    assert_near(outcome.loss, (math.exp(-0.5) * low + math.exp(0.5) * high) / 2)
    assert_near(gradient(columns, "chosen"), *(-0.25 * math.exp(-x / 2) * sigmoid(-x) for x in (1, -1)))
    assert_near(methods.apply("kl_dpo", columns, beta=0.5, tau=0.1).loss, (math.exp(-5) * low + 10 * high) / 2)
    normalised = methods.apply("kl_dpo", columns, beta=0.5, reweighting="normalised").loss
    assert_near(normalised, sigmoid(-1) * low + sigmoid(1) * high)


def test_dpo_shift() -> None:
    """a = 1, c = -2, lam 0.75: 1 + 1.5 = 2.5, times 0.4: x = 1; d/dc = 0.4 * 0.75 sigmoid(-1)."""
    columns = pairs([1], [-2])
    outcome = methods.apply("dpo_shift", columns, beta=0.4, lam=0.75)
    outcome.loss.backward()
    assert_near(outcome.losses, -log_sigmoid(1))
    assert_near(gradient(columns, "chosen"), -0.4 * sigmoid(-1))
    assert_near(gradient(columns, "rejected"), 0.3 * sigmoid(-1))


@pytest.mark.parametrize(("schedule", "lam"), [("increase_linear", 0.625), ("decrease_linear", 0.875), ("fixed", 0.95)])
def test_schedules_of_dpo_shift(schedule: str, lam: float) -> None:
    """A quarter of the way between 0.5 and 1."""
    columns = pairs([1], [-2]) | {"progress": torch.tensor(0.25)}
    assert_near(losses("dpo_shift", columns, beta=0.5, lam_schedule=schedule), -log_sigmoid(0.5 * (1 + 2 * lam)))


def test_h_dpo() -> None:
    """At the reference, log ref -10 and -30, alpha 0.9, beta 0.1: -0.1 * 0.1 * 20 = -0.2, not log 2; d/da -0.09 s."""
    columns = {f"{whose}_{side}_logps": tensor(nats) for whose in ("policy", "ref") for side, nats in SIDES.items()}
    chosen = columns["policy_chosen_logps"].requires_grad_()
    outcome = methods.apply("h_dpo", columns)
    outcome.loss.backward()
    assert_near(outcome.losses, -log_sigmoid(-0.2))
    assert_near(chosen.grad, -0.09 * sigmoid(0.2))
    assert_near(outcome.chosen_rewards, 0.1 * (-9 + 10))
    assert_near(losses("h_dpo", pairs([1], [-1]), alpha=1, beta=0.5), -log_sigmoid(1))
    assert "not log 2" in (h_dpo.__doc__ or "")


SIDES = {"chosen": -10.0, "rejected": -30.0}


def test_ropo() -> None:
    """alpha 14: 56 / 225; x = 1; the weight of the gradient is 56 / 225 sigmoid(-1) (1 + 14 sigmoid(1))."""
    columns = pairs([1], [-1])
    outcome = methods.apply("ropo", columns, beta=0.5)
    outcome.loss.backward()
    assert_near(outcome.losses, 56 / 225 * (-log_sigmoid(1) + 14 * sigmoid(-1)))
    assert_near(gradient(columns, "chosen"), -0.5 * 56 / 225 * sigmoid(-1) * (1 + 14 * sigmoid(1)))


def test_amapo() -> None:
    """u = 1, 3: mu 2, s sqrt 2, z = 1 / sqrt 2 for the first: margin e^(2 / sqrt 2), the paper's with beta 0.5 times
    that exponent. u = -3, -1: mu -2; the code picks the first, with e^-sqrt 2, the paper the second."""
    root = math.sqrt(2)
    columns = pairs([1, 3], [0, 0])
    outcome = methods.apply("amapo", columns, beta=0.5)
    assert_near(outcome.target_margin, math.exp(root), 0)
    assert_near(outcome.losses, -log_sigmoid(0.5 * (1 - math.exp(root))), -log_sigmoid(1.5))
    assert_near(methods.apply("amapo", columns, beta=0.5, form="paper").target_margin, math.exp(root / 2), 0)
    below = pairs([-3, -1], [0, 0])
    assert_near(methods.apply("amapo", below, beta=0.5).target_margin, math.exp(-root), 0)
    assert_near(methods.apply("amapo", below, beta=0.5, form="paper").target_margin, 0, math.exp(root / 2))


def test_amapo_without_a_spread_has_no_margin() -> None:
    """One pair, and gaps that are equal: SimPO without a margin, and no NaN."""
    for columns in (pairs([1], [0]), pairs([1, 1], [0, 0])):
        assert_near(methods.apply("amapo", columns).target_margin, *[0.0] * len(columns["chosen_len"]))


def test_gamma_po_shares_a_margin_out() -> None:
    """At the fixed point N p_i is proportional to exp(-gamma sigmoid(gamma_i - g_i) / tau); the mean margin is gamma.

    One pair, and equal gaps, have gamma itself: SimPO's loss."""
    gaps, gamma, tau = tensor(0.3, 2.0, -1.0, 5.0), 4.0, 2.0
    margins = shared_margins(gaps, gamma, tau)
    relative = (-gamma * (margins - gaps).sigmoid() / tau).exp()
    torch.testing.assert_close(margins, gamma * relative / relative.mean(), rtol=1e-4, atol=0)
    assert_near(margins.mean(), gamma)
    assert margins[2] < margins[0] < margins[1] < margins[3]
    for columns in (pairs([1], [-1]), pairs([1, 1], [-1, -1])):
        simpo = losses("simpo", columns, beta=0.5, gamma_beta_ratio=0.4)
        assert_near(losses("gamma_simpo", columns, beta=0.5), *simpo.tolist())


def test_gamma_dpo_has_a_mean_target_of_zero() -> None:
    """Delta 2 and -2, beta 0.5, ratio 4: gaps 1, -1; margins m, 4 - m of mean gamma_0 = 2: targets +-(m / 0.5 - 4)."""
    outcome = methods.apply("gamma_dpo", pairs([1, -1], [-1, 1]), beta=0.5, gamma_beta_ratio=4, tau=2.0)
    margin = shared_margins(tensor(1, -1), 2.0, 2.0)[0].item()
    assert_near(outcome.target_margin, margin / 0.5 - 4, 4 - margin / 0.5)
    assert_near(outcome.losses[0], -log_sigmoid(0.5 * (2 - margin / 0.5 + 4)))


def test_the_queue_of_gamma_po() -> None:
    """It grows by each step's beta u after use, is read by the next, and is not moved by evaluation."""
    columns, other = pairs([1, 3], [0, 0]), pairs([-1], [0])
    first = methods.apply("gamma_simpo", columns, beta=2)
    assert_near(first.state["policy_gap_queue"], 2, 6)
    assert_near(first.state["policy_gap_steps"], 1)
    second = methods.apply("gamma_simpo", other, first.state, beta=2)
    assert_near(second.target_margin, shared_margins(tensor(2, 6, -2), 0.8, 10.0)[2].item() / 2)
    assert_near(second.state["policy_gap_queue"], 2, 6, -2)
    evaluated = methods.apply("gamma_simpo", other, first.state, beta=2, training=False)
    assert_near(evaluated.target_margin, second.target_margin.item())
    assert_near(evaluated.state["policy_gap_queue"], 2, 6)


def test_the_queue_may_begin_with_seeded_normals() -> None:
    columns = pairs([1, 3], [0, 0])
    one, again, other = (methods.apply("gamma_simpo", columns, queue_normals=8, queue_seed=seed) for seed in (3, 3, 4))
    assert one.state["policy_gap_queue"].shape == (10,)
    assert torch.equal(one.state["policy_gap_queue"], again.state["policy_gap_queue"])
    assert torch.equal(one.losses, again.losses)
    assert not torch.equal(one.losses, other.losses)
    following = methods.apply("gamma_simpo", columns, one.state, queue_normals=8, queue_seed=3).state
    assert following["policy_gap_queue"].shape == (12,)


def test_a_long_queue_is_drawn_from_and_cut() -> None:
    """Of 2,047 gaps 254 are drawn beside the step's two, by seed and step; the oldest leave. In a step of 300, none."""
    columns = pairs([1, 3], [0, 0])
    queue = torch.linspace(-5, 5, LONGEST_QUEUE - 1, dtype=torch.float64)
    state = {"policy_gap_queue": queue, "policy_gap_steps": torch.tensor(7.0)}
    one, again, later = (
        methods.apply("gamma_simpo", columns, state | {"policy_gap_steps": torch.tensor(step)}, beta=2)
        for step in (7.0, 7.0, 8.0)
    )
    assert one.target_margin.tolist() == again.target_margin.tolist() != later.target_margin.tolist()
    assert torch.equal(one.state["policy_gap_queue"], torch.cat([queue[1:], tensor(2, 6)]))
    many = pairs([x / 100 for x in range(LARGEST_POOL + 44)], [0.0] * (LARGEST_POOL + 44))
    full, empty = (methods.apply("gamma_simpo", many, given).target_margin for given in (state, None))
    assert torch.equal(full, empty)


def test_bpo() -> None:
    """R = e^-1: (e^-2.2 / 2.2 - e^1.2 / 1.2) / 4; lam 0: (e^-1 - 1) / 4; and the other divergences."""
    columns = pairs([1], [-1])
    outcome = methods.apply("bpo", columns, beta=0.5, lam=1.2)
    outcome.loss.backward()
    assert_near(outcome.losses, (math.exp(-2.2) / 2.2 - math.exp(1.2) / 1.2) / 4)
    assert_near(gradient(columns, "chosen"), -0.5 * (math.exp(-2.2) + math.exp(1.2)) / 4)
    by_name = {
        "sba": (math.exp(-1) - 1) / 4,
        "ba": math.exp(-1) - 1,
        "kliep": math.exp(-1) - 1,
        "lsif": math.exp(-2) - 2 * math.e,
        "lr": -log_sigmoid(1),
    }
    for h, expected in by_name.items():
        assert_near(losses("bpo", columns, beta=0.5, h=h, lam=0), expected)
    assert_near(losses("bpo", columns, beta=0.5, h="ba", lam=0.5), math.exp(-1.5) - 3 * math.exp(0.5))


def test_sba_has_the_gradient_of_dpo_at_the_reference() -> None:
    for lam in (-0.5, 0.0, 1.2):
        columns = pairs([0], [0])
        methods.apply("bpo", columns, lam=lam).loss.backward()
        assert_near(gradient(columns, "chosen"), -0.05)


def test_bpo_clips_the_ratio_and_mixes_in_the_logistic_loss() -> None:
    """beta Delta = 6 is R = e^-6 < 0.01: B(0.01), no gradient of it; the logistic part, weight 0.7, keeps its own."""
    columns = pairs([6], [-6])
    outcome = methods.apply("bpo", columns, beta=0.5, lam=0, r_min=0.01, sba_weight=0.3)
    outcome.loss.backward()
    assert_near(outcome.losses, 0.3 * (0.01 + math.log(0.01)) / 4 - 0.7 * log_sigmoid(6))
    assert_near(gradient(columns, "chosen"), -0.5 * 0.7 * sigmoid(-6))
    assert_near(losses("bpo", pairs([-6], [6]), beta=0.5, lam=0, r_max=30), (30 + math.log(30)) / 4)


def test_bpo_of_the_ratio_of_simpo() -> None:
    """Averages -9.5 and -5.25, target 0.75: u - 0.75 = -5, beta 0.2: R = e; lam -0.5: (2 e^0.5 + 2 e^0.5) / 4."""
    found = losses("bpo_simpo", pairs([1], [-1], lens=(2, 4)), beta=0.2, gamma_beta_ratio=0.75, sba_weight=1)
    assert_near(found, math.exp(0.5))


def test_humanline() -> None:
    """S_w = 1.5 + 0.5, S_l = -1 - 0.2: 3.2 beta; no gradient but through the clamped sums."""
    columns = pairs([9], [-9]) | {
        "policy_chosen_clamped_logratios": tensor(2.0).requires_grad_(),
        "policy_rejected_clamped_logratios": tensor(-1.2),
    }
    outcome = methods.apply("humanline", columns, beta=0.5)
    outcome.loss.backward()
    assert_near(outcome.losses, -log_sigmoid(1.6))
    assert_near(columns["policy_chosen_clamped_logratios"].grad, -0.5 * sigmoid(-1.6))
    assert gradient(columns, "chosen") is None
    assert_near(outcome.chosen_rewards, 4.5)
