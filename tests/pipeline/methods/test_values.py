"""Values worked out by hand, independent of the vectors; the arithmetic stands in each docstring."""

import math

import pytest
import torch
from method_batches import assert_near, pairs, tensor

from scoreonce.pipeline import methods
from scoreonce.pipeline.methods.papers.beta_dpo import gaussian_gap
from scoreonce.pipeline.methods.pieces.reductions import weighted_mean


def test_dpo() -> None:
    """a = 1, c = -1: Delta = 2, beta Delta = 1: log(1 + e^-1) = 0.3132617; d/da = -0.5 / (1 + e) = -0.1344707.

    Rewards 0.5 * 1 and 0.5 * -1.
    """
    columns = pairs([1], [-1])
    outcome = methods.apply("dpo", columns, beta=0.5)
    outcome.loss.backward()
    assert_near(outcome.losses, math.log(1 + math.exp(-1)))
    assert_near(columns["policy_chosen_logps"].grad, -0.5 / (1 + math.e))
    assert_near(columns["policy_rejected_logps"].grad, 0.5 / (1 + math.e))
    assert_near(outcome.chosen_rewards, 0.5)
    assert_near(outcome.rejected_rewards, -0.5)
    assert_near(outcome.margin, 2)
    assert_near(outcome.beta, 0.5)


def test_dpo_with_label_smoothing() -> None:
    """0.9 * 0.3132617 + 0.1 * (1 + 0.3132617) = 0.4132617."""
    assert_near(
        methods.apply("dpo", pairs([1], [-1]), beta=0.5, label_smoothing=0.1).loss, 0.1 + math.log(1 + math.exp(-1))
    )


def test_ipo_takes_sums_or_averages() -> None:
    """1 / (2 beta) = 5. Sums: (2 - 5)^2 = 9, d/da = 2 * -3 = -6. Averages over 2 and 4 tokens: 1/2 + 1/4 = 0.75,
    (0.75 - 5)^2 = 18.0625, d/da = 2 * -4.25 / 2 = -4.25."""
    for normalisation, loss, gradient in (("sum", 9, -6), ("average", 18.0625, -4.25)):
        columns = pairs([1], [-1], lens=(2, 4))
        outcome = methods.apply("ipo", columns, beta=0.1, normalisation=normalisation)
        outcome.loss.backward()
        assert_near(outcome.losses, loss)
        assert_near(columns["policy_chosen_logps"].grad, gradient)
    assert methods.METHODS["ipo"].hyperparameters["normalisation"] == "average"


def test_hinge() -> None:
    """Delta = 2: 1 - 0.25 * 2 = 0.5; Delta = 8: 1 - 2 < 0, so 0 and no gradient. d/da of the mean: -0.25 / 2 and 0."""
    columns = pairs([1, 4], [-1, -4])
    outcome = methods.apply("hinge", columns, beta=0.25)
    outcome.loss.backward()
    assert_near(outcome.losses, 0.5, 0)
    assert_near(columns["policy_chosen_logps"].grad, -0.125, 0)


def test_simpo() -> None:
    """Policy sums -19 over 2 tokens and -21 over 4: u = -9.5 + 5.25 = -4.25; 2 (u - 0.5) = -9.5: log(1 + e^9.5).

    Rewards 2 * -9.5 and 2 * -5.25. No reference column is read.
    """
    columns = pairs([1], [-1], lens=(2, 4))
    without = {name: column for name, column in columns.items() if not name.startswith("ref_")}
    outcome = methods.apply("simpo", without, beta=2, gamma_beta_ratio=0.5)
    assert_near(outcome.losses, math.log(1 + math.exp(9.5)))
    assert_near(outcome.chosen_rewards, -19)
    assert_near(outcome.rejected_rewards, -10.5)
    assert_near(outcome.target_margin, 0.5)
    assert outcome.margin.isnan().all()
    assert_near(methods.apply("simpo", columns).margin, 2)


def test_beta_dpo() -> None:
    """Margins 1, 2, 6: mean 3, std sqrt(14 / 2) = 2.6458; from 0 with momentum 0.9: M0 = 0.3, std = 0.26458.

    log w = -(0.7 / 0.26458)^2 / 2 = -3.5, -20.6, -232.1; equal draws and keep = 0.7 keep int(2.1) = 2: the first two.
    Their mean is 1.5: beta = 0.1 (1 + 0.6 (1.5 - 0.3)) = 0.172. Losses log(1 + e^(-0.172 margin)); rewards with 0.1.
    """
    columns = pairs([1, 2, 6], [0, 0, 0]) | {"exponential_draws": tensor(1, 1, 1)}
    outcome = methods.apply("beta_dpo", columns, keep=0.7)
    assert_near(outcome.state["gap_mean"], 0.3)
    assert_near(outcome.state["gap_std"], 0.1 * math.sqrt(7))
    assert_near(outcome.weight, 1, 1, 0)
    assert_near(outcome.beta, 0.172, 0.172, 0.172)
    losses = [math.log(1 + math.exp(-0.172 * margin)) for margin in (1, 2, 6)]
    assert_near(outcome.losses, *losses)
    assert_near(outcome.loss, (losses[0] + losses[1]) / 2)
    assert_near(outcome.chosen_rewards, 0.1, 0.2, 0.6)


def test_beta_dpo_draws_decide_by_the_ratio_of_weight_and_draw() -> None:
    """As above, but the third pair's draw is e^-230: log w - log draw = -232.1 + 230 = -2.1, above -3.5 and -20.6."""
    columns = pairs([1, 2, 6], [0, 0, 0]) | {"exponential_draws": tensor(1, 1, math.exp(-230))}
    assert_near(methods.apply("beta_dpo", columns, keep=0.7).weight, 1, 0, 1)


def test_beta_dpo_floor() -> None:
    """One margin of -100: M0 = -10, 1 + 0.6 (-100 + 10) < 0, so beta is the floor; kept though int(0.8) = 0."""
    outcome = methods.apply("beta_dpo", pairs([-100], [0]), beta_floor=0.02)
    assert_near(outcome.beta, 0.02)
    assert_near(outcome.weight, 1)
    assert_near(outcome.loss, math.log(1 + math.exp(2)))
    assert_near(outcome.state["gap_std"], 0)


@pytest.mark.parametrize(
    ("count", "keep", "kept"), [(1, 0.8, 1), (8, 0.8, 6), (10, 0.8, 8), (100, 0.29, 29), (5, 1.0, 5), (10, 1 - 0.9, 1)]
)
def test_how_many_beta_dpo_keeps(count: int, keep: float, kept: int) -> None:
    """max(1, int(N keep)), as if keep were exact in decimal: 100 * 0.29 is 28.999... in binary."""
    columns = pairs([float(i) for i in range(count)], [0.0] * count)
    outcome = methods.apply("beta_dpo", columns, generator=torch.Generator().manual_seed(0), keep=keep)
    assert outcome.weight.sum() == kept


def test_beta_dpo_samples_in_proportion_to_the_weights() -> None:
    """State (0, 1); half of 2,000 margins are 0, half 1: w = 1 and e^-1/2, so of those kept 1 / 1.6065 = 0.6225 are 0.

    100 draws of 20 pairs, few enough that the kept ones are not missed: standard error 0.011; four of them allowed.
    """
    margins = torch.arange(2000, dtype=torch.float64) % 2
    generator = torch.Generator().manual_seed(3)
    kept = sum(
        gaussian_gap(margins, tensor(0)[0], tensor(1)[0], methods.exponential_draws(2000, generator), keep=0.01)
        for _ in range(100)
    )
    assert kept.sum() == 2000
    assert abs(float(kept[margins == 0].sum()) / 2000 - 1 / (1 + math.exp(-0.5))) < 0.044


def test_alpha_dpo() -> None:
    """Log-ratios 0.1 and 0.3 over one token: mean 0.2, std 0.141421; after one step 0.02 and 0.0141421.

    z = 0.08 / 0.0141421 = 5.656854 and 0.28 / 0.0141421 = 19.798990; targets 0.6 + 0.05 z. u = 0.1 and 0.3, for both
    sides' references are -20. Losses log(1 + e^(-2 (u - target))). Rewards 2 (-19.9 - 0.05 * 0.1) and 2 (-20).
    """
    outcome = methods.apply("alpha_dpo", pairs([0.1, 0.3], [0, 0]), beta=2, alpha=0.05, gamma_beta_ratio=0.6)
    targets = [0.6 + 0.05 * 0.08 / math.sqrt(0.0002), 0.6 + 0.05 * 0.28 / math.sqrt(0.0002)]
    assert_near(outcome.target_margin, *targets)
    short = [u - target for u, target in zip((0.1, 0.3), targets, strict=True)]
    assert_near(outcome.losses, *(math.log(1 + math.exp(-2 * gap)) for gap in short))
    assert_near(outcome.chosen_rewards, 2 * (-19.9 - 0.005), 2 * (-19.7 - 0.015))
    assert_near(outcome.rejected_rewards, -40, -40)


def test_alpha_dpo_without_alpha_is_simpo() -> None:
    columns = pairs([0.1, 0.3], [0.7, -2.0], lens=(3, 5))
    alpha = methods.apply("alpha_dpo", columns, alpha=0, beta=2, gamma_beta_ratio=0.5, label_smoothing=0.1)
    simpo = methods.apply("simpo", columns, beta=2, gamma_beta_ratio=0.5, label_smoothing=0.1)
    assert torch.equal(alpha.losses, simpo.losses)
    assert torch.equal(alpha.chosen_rewards, simpo.chosen_rewards)


def test_minor_dpo() -> None:
    """beta = 0.5, a = 1. c = -1: -log sigmoid(0.5), rejected side frozen; c = 1: 0.5 (1 - 1) = 0, log 2, and the
    rejected gradient of the mean is 0.5 * 0.5 / 2 = 0.125."""
    columns = pairs([1, 1], [-1, 1])
    outcome = methods.apply("minor_dpo", columns, beta=0.5)
    outcome.loss.backward()
    assert_near(outcome.losses, math.log(1 + math.exp(-0.5)), math.log(2))
    assert_near(columns["policy_rejected_logps"].grad, 0, 0.125)


def test_minor_sft() -> None:
    """a = 1, m = 2, beta = 0.5: 2 / (2 * 0.5) * log(1 + e^-0.5) = 0.948154; gradient -(2 / 2) / (1 + e^0.5) = -0.3775.

    At a = 0 it is -(2 / 2) / 2 = -0.5 = -1 / m: length-normalised SFT.
    """
    for logratio, gradient in ((1.0, -1 / (1 + math.exp(0.5))), (0.0, -0.5)):
        columns = pairs([logratio], [0], lens=(2, 1))
        outcome = methods.apply("minor_sft", columns, beta=0.5)
        outcome.loss.backward()
        assert_near(outcome.losses, 2 * math.log(1 + math.exp(-0.5 * logratio)))
        assert_near(columns["policy_chosen_logps"].grad, gradient)
        assert_near(outcome.chosen_rewards, 0.5 * logratio)
        assert outcome.rejected_rewards.isnan().all()


def test_sft_is_the_mean_over_tokens() -> None:
    """-6 nats over 3 tokens and -8 over 1: losses 2 and 8; over tokens 14 / 4 = 3.5, over completions (2 + 8) / 2 = 5.

    No beta, no target margin, no rewards: NaN. The gradient of the token mean is -1/4 for each.
    """
    columns = {"policy_chosen_logps": tensor(-6, -8).requires_grad_(), "chosen_len": torch.tensor([3, 1])}
    outcome = methods.apply("sft", columns)
    outcome.loss.backward()
    assert_near(outcome.losses, 2, 8)
    assert_near(outcome.weight, 3, 1)
    assert_near(outcome.loss, 3.5)
    assert_near(columns["policy_chosen_logps"].grad, -0.25, -0.25)
    assert_near(methods.apply("sft", columns, selection="all").loss, 5)
    assert all(column.isnan().all() for column in (outcome.beta, outcome.target_margin, outcome.chosen_rewards))


def test_a_batch_beta_on_ipo() -> None:
    """Margins 1 and 3, all kept: M0 = 0.2, mean 2: beta = 0.1 (1 + 0.6 * 1.8) = 0.208, 1 / (2 beta) = 2.403846."""
    outcome = methods.apply(None, pairs([1, 3], [0, 0]), objective="ipo", calibration="batch_beta", normalisation="sum")
    assert_near(outcome.losses, (1 - 1 / 0.416) ** 2, (3 - 1 / 0.416) ** 2)


def test_the_loss_is_0_where_every_weight_is() -> None:
    """Otherwise (1 * 2 + 3 * 4) / (1 + 3) = 3.5."""
    assert_near(weighted_mean(tensor(2, 4), tensor(1, 3), otherwise=tensor(0)[0]), 3.5)
    assert_near(weighted_mean(tensor(2, 4), tensor(0, 0), otherwise=tensor(7)[0]), 7)
    values = tensor(2, 4).requires_grad_()
    empty = weighted_mean(values, tensor(0, 0), otherwise=tensor(0)[0])
    empty.backward()
    assert_near(empty, 0)
    assert_near(values.grad, 0, 0)


def test_the_margin_that_a_divergence_makes_is_logged_beside_that_of_the_log_ratios() -> None:
    """js by hand: log-ratios log 3 and 0 are linked to log(2 3 / 4) and log(2 / 2); the loss of beta 1 is of these."""
    columns = pairs([math.log(3)], [0.0])
    outcome = methods.apply("f_dpo", columns, beta=1.0)
    assert outcome.margin.tolist() == pytest.approx([math.log(3)])
    assert outcome.linked_margin.tolist() == pytest.approx([math.log(1.5)])
    assert outcome.losses.tolist() == pytest.approx([math.log(1 + 1 / 1.5)])
    # Also where the objective divides by lengths first; not where the loss has the margin itself, or no such thing.
    assert methods.apply("ipo", columns, divergence="js").linked_margin.tolist() == pytest.approx([math.log(1.5)])
    for name in ("dpo", "simpo", "kto"):
        more = {"policy_kl_logps": tensor(-5.0), "ref_kl_logps": tensor(-5.0)}
        assert methods.apply(name, columns | more).linked_margin.isnan().all()
