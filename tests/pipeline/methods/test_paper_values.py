"""Values worked out by hand for the methods around DPO, one test a paper; the arithmetic stands in each docstring."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from method_batches import assert_near, log_sigmoid, losses, pairs, sigmoid, tensor
from torch import Tensor

from scoreonce.pipeline import methods
from scoreonce.pipeline.methods.papers.exo import exo_list
from scoreonce.pipeline.methods.papers.nca import infonca_list, nca_list
from scoreonce.schemas.errors import InputError


def test_dpo_with_a_target_margin() -> None:
    """Delta = 2, target 0.5: log(1 + e^-(0.5 * 1.5)). For alpha's margin on DPO the gap is the summed margin: two
    margins of 0.1 and 0.3 have the running mean 0.02 and std 0.1 * 0.141421 as in alpha-DPO."""
    assert_near(losses("dpo", pairs([1], [-1]), beta=0.5, gamma_beta_ratio=0.5), -log_sigmoid(0.75))
    composed = methods.apply(
        "dpo", pairs([0.1, 0.3], [0, 0], lens=(7, 3)), calibration="alpha_margin", alpha=0.05, gamma_beta_ratio=0.0
    )
    assert_near(composed.target_margin, 0.05 * 0.08 / math.sqrt(0.0002), 0.05 * 0.28 / math.sqrt(0.0002))


def test_dpo_per_token() -> None:
    """a = 1 over 2 tokens, c = -1 over 4: 1/2 + 1/4 = 0.75 nats per token, times 2."""
    assert_near(losses("sigmoid_norm", pairs([1], [-1], lens=(2, 4)), beta=2), -log_sigmoid(1.5))


def test_robust() -> None:
    """x = 1: ((1 - 0.1) 0.3132617 - 0.1 * 1.3132617) / 0.8; d/da = -0.5 (0.9 sigmoid(-1) + 0.1 sigmoid(1)) / 0.8."""
    columns = pairs([1], [-1])
    outcome = methods.apply("robust", columns, beta=0.5, label_smoothing=0.1)
    outcome.loss.backward()
    assert_near(outcome.losses, (-0.9 * log_sigmoid(1) + 0.1 * log_sigmoid(-1)) / 0.8)
    assert_near(columns["policy_chosen_logps"].grad, -0.5 * (0.9 * sigmoid(-1) + 0.1 * sigmoid(1)) / 0.8)


def test_rso_is_dpo_and_hinge_with_its_gamma() -> None:
    assert_near(losses("rso", pairs([1], [-1])), -log_sigmoid(0.1))
    assert_near(losses("rso_hinge", pairs([1], [-1]), gamma=0.2), 0.6)


def test_odpo() -> None:
    """Scores 8 and 3, alpha 0.5: offset 0.5 log 5 and, of the ratio, 0.5 log(8 / 3); beta Delta = 1."""
    columns = pairs([1], [-1]) | {"chosen_score": tensor(8), "rejected_score": tensor(3)}
    outcome = methods.apply("odpo", columns, beta=0.5, alpha=0.5)
    assert_near(outcome.losses, -log_sigmoid(1 - 0.5 * math.log(5)))
    assert_near(outcome.target_margin, math.log(5))
    assert_near(
        losses("odpo", columns, beta=0.5, alpha=0.5, offset="log_ratio"), -log_sigmoid(1 - 0.5 * math.log(8 / 3))
    )


@pytest.mark.parametrize(
    ("scores", "settings"),
    [((3, 3), {}), ((2, 3), {}), ((3, 0), {"offset": "log_ratio"}), ((-1, -2), {"offset": "log_ratio"})],
)
def test_odpo_refuses_scores_without_a_logarithm(scores: tuple[float, float], settings: dict[str, Any]) -> None:
    columns = pairs([1, 1], [-1, -1]) | {"chosen_score": tensor(8, scores[0]), "rejected_score": tensor(3, scores[1])}
    with pytest.raises(InputError, match="1 of 2 pairs"):
        methods.apply("odpo", columns, **settings)


def test_r_dpo() -> None:
    """Lengths 5 and 2: beta Delta + 0.2 * 3 = 1.6; a longer chosen completion has the smaller loss."""
    assert_near(losses("r_dpo", pairs([1], [-1], lens=(5, 2)), beta=0.5, alpha=0.2), -log_sigmoid(1.6))


def test_ld_dpo() -> None:
    """Delta 2, over the prefix 1: with alpha 0.25, 1 + 0.25 * 1 = 1.25. d/d sum = -0.5 s alpha, d/d prefix the rest."""
    columns = pairs([1], [-1]) | {"policy_chosen_prefix_logps": tensor(-9.5).requires_grad_()}
    columns |= {
        "policy_rejected_prefix_logps": tensor(-10.5),
        "ref_chosen_prefix_logps": tensor(-10),
        "ref_rejected_prefix_logps": tensor(-10),
    }
    outcome = methods.apply("ld_dpo", columns, beta=0.5, ld_alpha=0.25)
    outcome.loss.backward()
    assert_near(outcome.losses, -log_sigmoid(0.625))
    assert_near(columns["policy_chosen_logps"].grad, -0.5 * sigmoid(-0.625) * 0.25)
    assert_near(columns["policy_chosen_prefix_logps"].grad, -0.5 * sigmoid(-0.625) * 0.75)


def test_wpo() -> None:
    """Policy sums -19 and -21 over 2 and 4 tokens, log sum p^2 -18 and -19: s = -1/2 and -1/2, weight e^-1. Another
    pair, with log sum p^2 -29: s = 5, 5 - 1/2 > 0, weight 1 unless it is left unclamped."""
    columns = pairs([1, 1], [-1, -1], lens=(2, 4)) | {
        "policy_chosen_collision_logps": tensor(-18, -29),
        "policy_rejected_collision_logps": tensor(-19, -19),
    }
    outcome = methods.apply("wpo", columns, beta=0.5)
    assert_near(outcome.losses, -math.exp(-1) * log_sigmoid(1), -log_sigmoid(1))
    assert_near(outcome.loss, -(math.exp(-1) + 1) / 2 * log_sigmoid(1))
    assert_near(losses("wpo", columns, beta=0.5, clamp="none")[1], -math.exp(4.5) * log_sigmoid(1))


def test_dpop() -> None:
    """a = -1, c = -3: Delta 2, penalty 5 * 1: 0.5 (2 - 5); d/da = -0.5 sigmoid(1.5) (1 + 5). a = 1: none."""
    columns = pairs([-1, 1], [-3, -1])
    outcome = methods.apply("dpop", columns, beta=0.5, lam=5)
    outcome.losses[0].backward()
    assert_near(outcome.losses, -log_sigmoid(-1.5), -log_sigmoid(1))
    assert_near(columns["policy_chosen_logps"].grad, -0.5 * sigmoid(1.5) * 6, 0)


@pytest.mark.parametrize(
    ("divergence", "link"),
    [
        ("reverse_kl", lambda a: a),
        ("forward_kl", lambda a: 1 - math.exp(-a)),
        ("js", lambda a: math.log(2) + log_sigmoid(a)),
        ("alpha", lambda a: (1 - math.exp(-0.3 * a)) / 0.3),
    ],
)
def test_divergences(divergence: str, link: Callable[[float], float]) -> None:
    """In DPO the difference of the links; in IPO each divided by its length, 2 and 4, so that log 2 of JS counts."""
    settings = {"divergence": divergence, "divergence_alpha": 0.3, "beta": 0.5}
    assert_near(losses("f_dpo", pairs([1], [-2]), **settings), -log_sigmoid(0.5 * (link(1) - link(-2))))
    assert_near(losses("ipo", pairs([1], [-2], lens=(2, 4)), **settings), (link(1) / 2 - link(-2) / 4 - 1) ** 2)


def test_the_alpha_divergence_meets_the_other_two() -> None:
    columns = pairs([1], [-2])
    for alpha, divergence in ((1.0, "forward_kl"), (0.0, "reverse_kl")):
        assert_near(
            losses("f_dpo", columns, divergence="alpha", divergence_alpha=alpha),
            losses("f_dpo", columns, divergence=divergence).item(),
        )


def test_chi_po() -> None:
    """phi(e) - phi(1/e) = e + 1 - (1/e - 1) = 4.350402; beta 0.1: inside 2 R = 2; beta 1: clipped, no gradient."""
    for beta, logit in ((0.1, 0.1 * (math.e + 2 - 1 / math.e)), (1.0, 2.0)):
        columns = pairs([1], [-1])
        outcome = methods.apply("chi_po", columns, beta=beta)
        outcome.loss.backward()
        assert_near(outcome.losses, -log_sigmoid(logit))
        assert_near(columns["policy_chosen_logps"].grad, -sigmoid(-logit) * beta * (math.e + 1) if logit < 2 else 0)


def test_sppo() -> None:
    """beta 0.25: targets 0.4 / 0.25 = 1.6 and -0.2 / 0.25 = -0.8: ((1 - 1.6)^2 + (-1 + 0.8)^2) / 2 = 0.2.

    Hard: (1 - 2)^2 + (-1 + 2)^2 = 2, twice the soft one at P = 1, 0.
    """
    columns = pairs([1], [-1]) | {"chosen_preference": tensor(0.9), "rejected_preference": tensor(0.3)}
    assert_near(losses("sppo", columns, beta=0.25), 0.2)
    assert_near(losses("sppo_hard", columns, beta=0.25), 2)
    certain = columns | {"chosen_preference": tensor(1), "rejected_preference": tensor(0)}
    assert_near(losses("sppo", certain, beta=0.25), 1)


def test_cal_dpo() -> None:
    """beta 0.25: errors of a = 1, 3 from 2: 1, 1; of c = -1, 0 from -2: 1, 4: (1 + 2.5) / 2 = 1.75 on both pairs."""
    assert_near(losses("cal_dpo", pairs([1, 3], [-1, 0]), beta=0.25), 1.75 - log_sigmoid(2), 1.75 - log_sigmoid(3))


def test_apo() -> None:
    assert_near(losses("apo_zero", pairs([1], [-1]), beta=0.5), 1 - sigmoid(0.5) + sigmoid(-0.5))
    assert_near(losses("apo_down", pairs([1], [-1]), beta=0.5), sigmoid(0.5) + 1 - sigmoid(1))


def test_exo() -> None:
    """p = sigmoid(1) against (0.9, 0.1); the official log q = (0, -10)."""
    p = sigmoid(1)
    assert_near(
        losses("exo_pair", pairs([1], [-1]), beta=0.5, label_smoothing=0.1),
        p * math.log(p / 0.9) + (1 - p) * math.log((1 - p) / 0.1),
    )
    assert_near(
        losses("exo_pair", pairs([1], [-1]), beta=0.5, target="official"),
        p * math.log(p) + (1 - p) * (math.log(1 - p) + 10),
    )


def test_exo_of_a_list() -> None:
    """For two completions with scores log 9 apart the target is (0.9, 0.1): EXO-pair. For three, by the definition."""
    logratios, scores = tensor(1, -1)[None], tensor(math.log(9), 0)[None]
    assert_near(
        exo_list(logratios, scores, beta=0.5, reward_temperature=1.0),
        losses("exo_pair", pairs([1], [-1]), beta=0.5, label_smoothing=0.1).item(),
    )
    policy, target = [math.exp(x) for x in (0.5, 1.0, -1.5)], [math.exp(x) for x in (2, 4, 0)]
    p, q = [x / sum(policy) for x in policy], [x / sum(target) for x in target]
    assert_near(
        exo_list(tensor(1, 2, -3)[None], tensor(1, 2, 0)[None]),
        sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)),
    )


def test_nca() -> None:
    """The pair is the list of two with hard labels; InfoNCA with p = sigmoid((5 - 3) / 2)."""
    pair = -log_sigmoid(0.5) - 0.5 * log_sigmoid(-0.5) - 0.5 * log_sigmoid(0.5)
    assert_near(losses("nca_pair", pairs([1], [-1]), beta=0.5), pair)
    assert_near(nca_list(tensor(1, -1)[None], tensor(1000, 0)[None], beta=0.5), pair)
    assert_near(
        nca_list(tensor(3, -2)[None], tensor(5, 3)[None], beta=0.5, temperature=2),
        -sigmoid(1) * log_sigmoid(1.5) - sigmoid(-1) * log_sigmoid(-1) - 0.5 * (log_sigmoid(-1.5) + log_sigmoid(1)),
    )
    scores = {"chosen_score": tensor(5), "rejected_score": tensor(3)}
    soft = -sigmoid(1) * log_sigmoid(1) - sigmoid(-1) * log_sigmoid(-1)
    assert_near(losses("infonca", pairs([1], [-1]) | scores, beta=0.5, temperature=2), soft)
    assert_near(infonca_list(tensor(1, -1)[None], tensor(5, 3)[None], beta=0.5, temperature=2), soft)


def test_bco() -> None:
    """First step: mean log-ratio (1 - 2) / 2 = -0.5. Second: (3 + 0) / 2 = 1.5, running mean 0.5. Without: delta 0."""
    first = methods.apply("bco", pairs([1], [-2]), beta=0.5)
    assert_near(first.losses, -log_sigmoid(0.5 * 1.5) - log_sigmoid(-0.5 * -1.5))
    second = methods.apply("bco", pairs([3], [0]), first.state, beta=0.5)
    assert_near(second.losses, -log_sigmoid(0.5 * 2.5) - log_sigmoid(0.5 * 0.5))
    assert_near(second.state["mean_logratio_steps"], 2)
    assert_near(losses("bco_pair", pairs([3], [-2]), beta=0.5), -log_sigmoid(1.5) - log_sigmoid(1))


def test_aot() -> None:
    """a = 3, 1, 2; c = 0, 5, -1: 3 with 5, 1 with -1, 2 with 0, in the order of a. The gradient of c_2 = 5 is a_1's.

    Reference gaps are all 0 here, so the paired form sorts p = a - c = 3, -4, 3 and takes each from 0.
    """
    columns = pairs([3, 1, 2], [0, 5, -1])
    outcome = methods.apply("aot_pair", columns, beta=0.5)
    outcome.losses.sum().backward()
    assert_near(outcome.losses, -log_sigmoid(-1), -log_sigmoid(1), -log_sigmoid(1))
    assert_near(columns["policy_rejected_logps"].grad, 0.5 * sigmoid(-1), 0.5 * sigmoid(1), 0.5 * sigmoid(-1))
    assert_near(
        losses("aot", pairs([3, 1, 2], [0, 5, -1]), beta=0.5), -log_sigmoid(1.5), -log_sigmoid(-2), -log_sigmoid(1.5)
    )


def test_discopop() -> None:
    """x = 1, tau 0.5: m = sigmoid(2)."""
    m = sigmoid(2)
    assert_near(losses("discopop", pairs([1], [-1]), beta=0.5, tau=0.5), -(1 - m) * log_sigmoid(1) + m * math.exp(-1))


def test_repo_and_slic() -> None:
    """Policy -19 over 2 and -21 over 4 tokens: averages -9.5 and -5.25: 0.6 + 4.25. SLiC, sums: 1 - 2 < 0; 0.1 * 19."""
    assert_near(losses("repo", pairs([1], [-1], lens=(2, 4)), gamma=0.6), 4.85)
    assert_near(losses("slic", pairs([1], [-1])), 1.9)
    assert_near(losses("slic", pairs([-1], [1]), delta=1, lam=0), 3)


def test_orpo() -> None:
    """Averages log 0.5 and log 0.2: odds 1 and 0.25, log ratio log 4: -log sigmoid = log 1.25. NLL log 2."""
    columns = {
        "policy_chosen_logps": tensor(2 * math.log(0.5)),
        "policy_rejected_logps": tensor(3 * math.log(0.2)),
        "chosen_len": tensor(2),
        "rejected_len": tensor(3),
    }
    assert_near(losses("orpo", columns, lam=0.1), math.log(2) + 0.1 * math.log(1.25))
    assert_near(losses("orpo", columns, beta=1.0, sft_weight=0.0), math.log(1.25))
    assert_near(methods.apply("orpo", columns, lam=0.1).chosen_rewards, 0.1 * math.log(0.5))
    assert_near(methods.apply("orpo", columns, lam=0.1).rejected_rewards, 0.1 * math.log(0.2))


def test_cpo() -> None:
    """Policy sums -19 and -21: beta * 2 = 1; 2 * 19 / 2 tokens = 19. Smoothed: + 0.1 * 1, as for DPO."""
    assert_near(losses("cpo", pairs([1], [-1], lens=(2, 4)), beta=0.5, cpo_alpha=2), -log_sigmoid(1) + 19)
    assert_near(losses("cpo", pairs([1], [-1]), beta=0.5, cpo_alpha=0, label_smoothing=0.1), -log_sigmoid(1) + 0.1)


def test_kto() -> None:
    """Mismatched log-ratios 0.5 and -0.1: z = 0.2; weights 2 and 1, half of both sides. A negative mean: z = 0."""
    columns = pairs([1, 0], [-1, 0]) | {"policy_kl_logps": tensor(-9.5, -10.1), "ref_kl_logps": tensor(-10, -10)}
    outcome = methods.apply("kto", columns, beta=0.5, desirable_weight=2)
    assert_near(
        outcome.losses,
        *(
            (2 * (1 - sigmoid(desirable)) + 1 - sigmoid(undesirable)) / 2
            for desirable, undesirable in ((0.4, 0.6), (-0.1, 0.1))
        ),
    )
    below = columns | {"policy_kl_logps": tensor(-11, -11)}
    assert_near(losses("kto", below, beta=0.5)[0], (1 - sigmoid(0.5) + 1 - sigmoid(0.5)) / 2)


def test_tdpo() -> None:
    """Delta 2, K_w = 0.5, K_l = 0.3: TDPO1 2 + 0.2; TDPO2 with 0.5: 2 + 0.1, no gradient through K_w."""
    kl = {
        "policy_chosen_forward_kl": tensor(0.5).requires_grad_(),
        "policy_rejected_forward_kl": tensor(0.3).requires_grad_(),
    }
    assert_near(losses("tdpo1", pairs([1], [-1]) | kl, beta=0.5), -log_sigmoid(1.1))
    outcome = methods.apply("tdpo2", pairs([1], [-1]) | kl, beta=0.5, alpha=0.5)
    outcome.loss.backward()
    assert_near(outcome.losses, -log_sigmoid(1.05))
    assert_near(outcome.chosen_rewards, 0.75)
    assert kl["policy_chosen_forward_kl"].grad is None
    assert_near(kl["policy_rejected_forward_kl"].grad, 0.5 * 0.5 * sigmoid(-1.05))


def test_sparse_po() -> None:
    """u 1 and -1, masked KL 0.5 and 0.3: 0.5 * 2.2; norms 10 and 20 with 0.01 and 0.001: 0.1 + 0.02."""
    columns = {
        "policy_chosen_logps": tensor(-1),
        "policy_chosen_masked_logratios": tensor(1),
        "policy_rejected_masked_logratios": tensor(-1),
        "policy_chosen_masked_forward_kl": tensor(0.5),
        "policy_rejected_masked_forward_kl": tensor(0.3),
        "policy_reward_mask_l1": tensor(10),
        "policy_kl_mask_l1": tensor(20),
    }
    assert_near(
        losses("sparse_po", columns, beta=0.5, l1_norm_param_u=0.01, l1_norm_param_d=0.001), 0.12 - log_sigmoid(1.1)
    )
    assert_near(losses("mapo", columns, beta=0.5), -log_sigmoid(1.1))
    doubled = columns | {"policy_chosen_masked_logratios": tensor(2)}
    assert_near(methods.apply("mapo", doubled, beta=0.5).chosen_rewards, 1)


def test_mpo() -> None:
    """0.8 DPO at x = 1, 0.2 BCO with delta 0 at a = 1, c = -1, and 19 / 2 nats per token."""
    assert_near(
        losses("mpo", pairs([1], [-1], lens=(2, 4)), beta=0.5), -0.8 * log_sigmoid(1) - 0.2 * 2 * log_sigmoid(0.5) + 9.5
    )


def test_sft_in_a_sum_can_count_tokens() -> None:
    """-6 nats over 3 tokens and -8 over 1: 14 / 4 = 3.5 as the mean of both pairs."""
    columns = {"policy_chosen_logps": tensor(-6, -8), "chosen_len": torch.tensor([3, 1])}
    assert_near(methods.apply(None, columns, objective="2*sft_tokens").loss, 7)


def epsilon_columns() -> dict[str, Tensor]:
    """Log-prob differences here 2, 2, 2; plus 2.1, 1.9, 2.1; minus 1.9, 2.1, 2.2: steps 1, -1, 0."""
    return pairs([1, 1, 1], [-1, -1, -1]) | {
        "policy_chosen_plus_logps": tensor(-18.9, -19.1, -18.9),
        "policy_rejected_plus_logps": tensor(-21, -21, -21),
        "policy_chosen_minus_logps": tensor(-19.1, -18.9, -18.8),
        "policy_rejected_minus_logps": tensor(-21, -21, -21),
    }


def test_epsilon_dpo() -> None:
    """Steps 1, -1, 0: mean 0, and the last pair changed to a fall, -1/3. beta_i = 0.5 / (1 +- 0.2); rewards with it."""
    columns = epsilon_columns()
    outcome = methods.apply("epsilon_dpo", columns, beta=0.5, epsilon=0.2)
    assert_near(outcome.beta, 0.5 / 1.2, 0.5 / 0.8, 0.5)
    assert_near(outcome.losses, -log_sigmoid(1 / 1.2), -log_sigmoid(1 / 0.8), -log_sigmoid(1))
    assert_near(outcome.chosen_rewards, 0.5 / 1.2, 0.5 / 0.8, 0.5)
    assert_near(outcome.state["epsilon_beta"], 0.5)
    falling = columns | {"policy_chosen_plus_logps": tensor(-18.9, -19.1, -19.1)}
    after = methods.apply("epsilon_dpo", falling, beta=0.5, epsilon=0.2).state
    assert_near(after["epsilon_beta"], 0.5 / (1 - 0.2 / 3))
    assert_near(
        methods.apply("epsilon_dpo", falling, beta=0.5, epsilon=0.2, update="paper").state["epsilon_beta"],
        (0.5 / 1.2 + 0.5 / 0.8 + 0.5 / 0.8) / 3,
    )
    assert_near(methods.apply("epsilon_dpo", columns, after, beta=0.5, epsilon=0.2).beta[2], 0.5 / (1 - 0.2 / 3))
    assert_near(methods.apply("epsilon_dpo", columns, beta=0.5, epsilon=0.2, dead_band=0.15).beta, 0.5, 0.5, 0.5)


def test_epsilon_dpo_decides_in_bfloat16() -> None:
    """Differences 439.5, 439.75, 440 are all 440 in bfloat16 (steps of 2 there): 0; 39.5, 39.75, 40 stay apart: 1."""
    rejected, columns = tensor(-500, -100), pairs([0, 0], [0, 0])
    for name, chosen in (("minus", -60.5), ("rounded", -60.25), ("plus", -60.0)):
        columns |= {f"policy_chosen_{name}_logps": tensor(chosen, chosen), f"policy_rejected_{name}_logps": rejected}
    assert_near(methods.apply("epsilon_dpo", columns, beta=0.5, epsilon=0.2, step_dtype="bf16").beta, 0.5, 0.5 / 1.2)


def test_epsilon_on_ipo() -> None:
    outcome = methods.apply("ipo", epsilon_columns(), calibration="perturbed_beta", beta=0.5, epsilon=0.2)
    assert_near(outcome.losses, *((2 - 1 / (2 * beta)) ** 2 for beta in (0.5 / 1.2, 0.5 / 0.8, 0.5)))


def test_beta_dpo_in_the_papers_order() -> None:
    """M0 = 0.2, std 1 at the start; margins 1, 3: mean 2, of all pairs, though one alone is kept. beta =
    0.1 (1 + 0.6 * 0.1 (2 - 0.2)) = 0.1108; afterwards M0 = 0.18 + 0.2 = 0.38, std 0.9 + 0.1 sqrt 2."""
    state = {"gap_mean": tensor(0.2)[0], "gap_std": tensor(1)[0]}
    columns = pairs([1, 3], [0, 0]) | {"exponential_draws": tensor(1, 1)}
    outcome = methods.apply("beta_dpo", columns, state, keep=0.5, order="paper")
    assert_near(outcome.weight, 1, 0)
    assert_near(outcome.beta, 0.1108, 0.1108)
    assert_near(outcome.state["gap_mean"], 0.38)
    assert_near(outcome.state["gap_std"], 0.9 + 0.1 * math.sqrt(2))


def test_alpha_dpo_standardised_by_the_batch() -> None:
    """Gaps 0.1, 0.3: mean 0.2, std 0.141421: z = -+0.707107. The paper's alpha is beta times the code's."""
    outcome = methods.apply(
        "alpha_dpo", pairs([0.1, 0.3], [0, 0]), beta=2, alpha=0.05, gamma_beta_ratio=0.6, z_score="batch"
    )
    assert_near(outcome.target_margin, 0.6 - 0.05 * math.sqrt(0.5), 0.6 + 0.05 * math.sqrt(0.5))
    paper = methods.apply(
        "alpha_dpo",
        pairs([0.1, 0.3], [0, 0]),
        beta=2,
        alpha=0.1,
        gamma_beta_ratio=0.6,
        z_score="batch",
        alpha_scale="paper",
    )
    assert_near(paper.target_margin, *outcome.target_margin.tolist())
