"""Laws that every method keeps, and every composition that makes sense."""

import itertools
import math
from typing import Any

import pytest
import torch
from method_batches import batch, leaves, moved, rows
from torch import Tensor

from scoreonce.pipeline import methods
from scoreonce.pipeline.methods import METHODS, Method, Outcome
from scoreonce.pipeline.methods.pieces.registry import PIECES, Piece, state_names
from scoreonce.pipeline.training.step import column_gradients

COMPOSED = {
    method.name: method
    for method in (
        methods.resolve(None, {}, objective="ipo", calibration="batch_beta", selection="gaussian_gap"),
        methods.resolve(None, {}, objective="hinge", calibration="batch_beta"),
        methods.resolve(None, {}, objective="minor_dpo", selection="gaussian_gap"),
        methods.resolve("alpha_dpo", {}, selection="gaussian_gap"),
        methods.resolve("simpo", {"normalisation": "sum"}, calibration="batch_beta"),
        methods.resolve("dpo", {}, selection="token_count"),
        methods.resolve("dpo", {"label_smoothing": 0.1}, calibration="alpha_margin"),
        methods.resolve("repo", {}, calibration="alpha_margin"),
        methods.resolve("simpo", {}, calibration="length_penalty"),
        methods.resolve("ipo", {}, calibration="perturbed_beta"),
        methods.resolve("kto", {}, calibration="batch_beta", selection="gaussian_gap"),
        methods.resolve("tdpo2", {}, calibration="batch_beta"),
        methods.resolve("aot", {}, calibration="batch_beta"),
        methods.resolve(None, {}, objective="0.5*bco_pair + 0.25*orpo + 2*sft_tokens"),
        methods.resolve("mpo", {}, calibration="batch_beta", selection="gaussian_gap"),
        methods.resolve("dr_dpo", {}, objective="ipo", selection="gaussian_gap"),
        methods.resolve("kl_dpo", {}, calibration="batch_beta"),
        methods.resolve("dpo", {}, calibration="batch_margin"),
        methods.resolve("alpha_po", {}, calibration="shared_policy_margin"),
        methods.resolve("bpo", {}, calibration="batch_beta", selection="gaussian_gap"),
    )
}
OPTIONS = {  # settings that take another way through a piece
    f"{name}-{'-'.join(map(str, settings.values()))}": methods.resolve(name, settings)
    for name, settings in (
        ("dpo", {"divergence": "forward_kl"}),
        ("ipo", {"divergence": "alpha", "divergence_alpha": 0.3}),
        ("robust", {"divergence": "js"}),
        ("beta_dpo", {"order": "paper"}),
        ("epsilon_dpo", {"update": "paper"}),
        ("epsilon_dpo", {"dead_band": 0.05}),
        ("alpha_dpo", {"z_score": "batch", "alpha_scale": "paper"}),
        ("exo_pair", {"target": "official", "beta": 0.5}),
        ("wpo", {"clamp": "none"}),
        ("discopop", {"tau": 1.0}),
        ("orpo", {"sft_weight": 0.0}),
        ("minor_dpo", {"tie": "relu"}),
        ("odpo", {"offset": "log_ratio"}),
        ("cpo", {"normalisation": "average"}),
        ("alpha_po", {"alpha": 0.0}),
        ("alpha_po", {"alpha": -0.5, "label_smoothing": 0.1}),
        ("dpo_shift", {"lam_schedule": "increase_linear"}),
        ("kl_dpo", {"reweighting": "normalised", "tau": 0.05}),
        ("amapo", {"form": "paper"}),
        ("gamma_simpo", {"queue_normals": 8}),
        ("gamma_dpo", {"normalisation": "sum", "tau": 0.1}),
        ("bpo", {"h": "ba", "lam": 0.5}),
        ("bpo", {"h": "lsif", "r_min": 0.01, "r_max": 30.0}),
        ("bpo", {"h": "sba", "lam": 1.2, "sba_weight": 0.3}),
    )
}
EVERY = [pytest.param(method, id=method.name) for method in (METHODS | COMPOSED).values()]
EVERY += [pytest.param(method, id=name) for name, method in OPTIONS.items()]
LOGISTIC = [
    "dpo",
    "beta_dpo",
    "minor_dpo",
    "dpo_norm",
    "robust",
    "rso",
    "r_dpo",
    "ld_dpo",
    "dpop",
    "f_dpo",
    "chi_po",
    "aot",
    "aot_pair",
    "infonca",
    "epsilon_dpo",
    "dpo_shift",
    "dr_dpo",
    "kl_dpo",
    "gamma_dpo",
    "humanline",
    "tis_dpo",
]
DECIDED = ("weight", "beta", "target_margin", "margin", "linked_margin", "chosen_rewards", "rejected_rewards")
NULLABLE = set(DECIDED) - {"weight"}
every_method = pytest.mark.parametrize("method", EVERY)


def floats(state: dict[str, Tensor]) -> dict[str, Any]:
    """0-d entries as numbers, queues as lists."""
    return {name: value.tolist() for name, value in state.items()}


def assert_finite(method: Method, columns: dict[str, Tensor], state: dict[str, Tensor]) -> Outcome:
    """Losses, weights, beta, the state and the gradients are finite; NaN only for a whole column that is not there."""
    columns = leaves(columns)
    outcome = method.run(columns, state)
    outcome.loss.backward()
    for name in ("losses", *DECIDED):
        column = getattr(outcome, name)
        assert column.isfinite().all() or (name in NULLABLE and column.isnan().all()), name
    assert all(value.isfinite().all() for value in outcome.state.values())
    assert all(column.grad is None or column.grad.isfinite().all() for column in columns.values())
    return outcome


@every_method
def test_every_column_has_one_number_per_pair(method: Method) -> None:
    outcome = assert_finite(method, batch(), method.init_state())
    for name in ("losses", *DECIDED):
        assert getattr(outcome, name).shape == (11,), name
        assert getattr(outcome, name).dtype == torch.float64, name
    assert outcome.loss.shape == ()
    assert (outcome.weight >= 0).all()
    assert set(outcome.state) == set(method.init_state())
    initial = method.init_state()
    assert all(value.ndim == initial[name].ndim <= 1 for name, value in outcome.state.items())
    assert all(value.dtype == torch.float64 for value in outcome.state.values())


@every_method
def test_finite_at_a_thousand_nats(method: Method) -> None:
    """Every sign of both log-ratios at 1,000 nats, lengths 1 and 1,000, over three steps."""
    signs = torch.tensor(list(itertools.product((-1000.0, 0.0, 1000.0), repeat=2)), dtype=torch.float64)
    for length in (1, 1000):
        lens = {"chosen_len": torch.full((len(signs),), length), "rejected_len": torch.ones(len(signs))}
        columns = moved(batch(len(signs)) | lens, signs[:, 0], signs[:, 1])
        state = method.init_state()
        for _ in range(3):
            state = assert_finite(method, columns, state).state


@every_method
def test_finite_for_one_pair(method: Method) -> None:
    """A single pair has no standard deviation; the running one stays."""
    state = assert_finite(method, batch(), method.init_state()).state
    after = assert_finite(method, batch(1), state).state
    assert all(torch.equal(after[name], state[name]) for name in state if name.endswith("_std"))
    assert_finite(method, batch(1), method.init_state())


@every_method
def test_finite_where_policy_and_reference_are_equal(method: Method) -> None:
    """All gaps exactly 0, as at the first step from a cached reference, and again after a step that was not."""
    columns = moved(batch(), torch.zeros(11), torch.zeros(11))
    state = assert_finite(method, columns, method.init_state()).state
    state = assert_finite(method, batch(), state).state
    assert_finite(method, columns, state)


@every_method
def test_finite_where_every_gaussian_weight_underflows(method: Method) -> None:
    """Pairs a thousand standard deviations from the running mean: exp(-z^2 / 2) is 0 for all of them."""
    state = {
        name: torch.full((9,) * start.ndim, 0.01 if name.endswith("_std") else 500.0, dtype=torch.float64)
        for name, start in method.init_state().items()
    }
    outcome = assert_finite(method, batch(), state)
    assert outcome.weight.sum() > 0


@every_method
def test_permuting_pairs_permutes_losses(method: Method) -> None:
    columns, order = batch(), torch.randperm(11, generator=torch.Generator().manual_seed(1))
    outcome, permuted = (method.run(given, method.init_state()) for given in (columns, rows(columns, order)))
    for name in ("losses", *DECIDED):
        torch.testing.assert_close(
            getattr(permuted, name), getattr(outcome, name)[order], rtol=1e-12, atol=1e-12, equal_nan=True
        )
    torch.testing.assert_close(permuted.loss, outcome.loss, rtol=1e-12, atol=1e-12)


@every_method
def test_batch_coupled_is_what_it_says(method: Method) -> None:
    """A per-pair method's losses and weights are the same in any subset of pairs; a batch-coupled one's are not, or, by
    its reduction, what they weigh in the step's gradient."""
    columns, subset = batch(), torch.tensor([0, 3, 4, 9])
    whole, part = (method.run(given, method.init_state()) for given in (columns, rows(columns, subset)))
    same = torch.equal(part.losses, whole.losses[subset]) and torch.equal(part.weight, whole.weight[subset])
    if method.reduction:
        gradients = [
            column_gradients(method, given, method.init_state())[1] for given in (columns, rows(columns, subset))
        ]
        same &= torch.allclose(gradients[1]["policy_chosen_logps"], gradients[0]["policy_chosen_logps"][subset])
    assert same is not method.batch_coupled


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(piece, id=f"{kind}-{piece.name}")
        for kind, pieces in PIECES.items()
        for piece in pieces.values()
        if piece.gives and kind != "reduction"  # the loss of a step is of its pairs
    ],
)
def test_batch_coupled_is_what_each_piece_says(piece: Piece) -> None:
    """The same for a piece alone, its state and every other column being given per pair."""
    columns = {name: column.double() for name, column in batch().items()}
    columns |= {"progress": torch.tensor(0.5, dtype=torch.float64)}
    rising = torch.linspace(0.5, 1.5, 11, dtype=torch.float64)
    columns |= {name: rising.roll(shift) for shift, name in enumerate(piece.columns) if name not in columns}
    columns |= {
        name: torch.full((1,) if keeper.initial[name] == () else (), 0.5, dtype=torch.float64)
        for name, keeper in state_names().items()
    }
    settings = {
        name: setting.default or (1 if setting.kind is int else 0.1) for name, setting in piece.hyperparameters.items()
    }
    subset = torch.tensor([0, 3, 4, 7, 9])
    part = {name: column[subset] if column.shape == (11,) else column for name, column in columns.items()}
    whole_gives, part_gives = piece(columns, settings), piece(part, settings)
    # Not bit for bit: a value may be computed in another SIMD lane, with another last digit.
    same = [
        part_gives[name].shape == there.shape and torch.allclose(part_gives[name], there, rtol=1e-12, atol=1e-12)
        for name in piece.gives
        for there in [whole_gives[name][subset] if whole_gives[name].ndim else whole_gives[name]]
    ]
    assert all(same) is not piece.batch_coupled


@pytest.mark.parametrize("name", LOGISTIC)
def test_log_2_where_policy_and_reference_are_equal(name: str) -> None:
    """Lengths and scores equal, so that no margin is demanded."""
    columns = moved(batch(), torch.zeros(11), torch.zeros(11))
    columns |= {"rejected_len": columns["chosen_len"], "rejected_score": columns["chosen_score"]}
    outcome = methods.apply(name, columns)
    assert outcome.loss.item() == pytest.approx(math.log(2), abs=1e-12)
    torch.testing.assert_close(outcome.losses, torch.full((11,), math.log(2), dtype=torch.float64), rtol=0, atol=1e-12)


@every_method
def test_gradients_flow_through_the_losses_alone(method: Method) -> None:
    columns = leaves(batch())
    outcome = method.run(columns, method.init_state())
    assert outcome.losses.requires_grad
    assert not any(getattr(outcome, name).requires_grad for name in DECIDED)
    assert not any(value.requires_grad for value in outcome.state.values())


@every_method
def test_gradients_reach_differentiable_columns_alone(method: Method) -> None:
    """Weights, beta, state and the estimate of the KL divergence are made of columns without gradient."""
    columns = leaves(batch())
    method.run(columns, method.init_state()).loss.backward()
    reached = {name for name, column in columns.items() if column.grad is not None}
    assert reached
    assert reached <= method.differentiable <= method.reads
    assert all(name.startswith("policy_") for name in method.differentiable)


@every_method
def test_evaluation_leaves_the_state(method: Method) -> None:
    state = assert_finite(method, batch(seed=1), method.init_state()).state
    outcome = method.run(batch(seed=2), state, training=False)
    assert floats(outcome.state) == floats(state)
    moved = method.run(batch(seed=2), state).state
    assert all(floats(moved)[name] != value for name, value in floats(state).items())


@every_method
def test_the_given_state_is_not_written_to(method: Method) -> None:
    state = method.init_state()
    method.run(batch(), state)
    assert floats(state) == floats(method.init_state())


@every_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_any_float_dtype(method: Method, dtype: torch.dtype) -> None:
    """Multiples of 2 nats below 512, which all three dtypes hold: the same losses; gradients in the columns' dtype."""
    exact = {
        name: (2 * (column / 2).round()).clamp(min=-510) if name.endswith("logps") else column
        for name, column in batch().items()
    }
    columns = leaves({name: column.to(dtype) if name.endswith("logps") else column for name, column in exact.items()})
    outcome = method.run(columns, method.init_state())
    outcome.loss.backward()
    assert torch.equal(outcome.losses, method.run(exact, method.init_state()).losses)
    gradients = {name: columns[name].grad for name in method.differentiable}
    assert any(gradient is not None for gradient in gradients.values())
    assert all(gradient is None or gradient.dtype == columns[name].dtype for name, gradient in gradients.items())


@every_method
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda(method: Method) -> None:
    columns = batch()
    here = method.run(columns, method.init_state())
    there = method.run({name: column.cuda() for name, column in columns.items()}, method.init_state())
    assert there.losses.is_cuda
    torch.testing.assert_close(there.losses.cpu(), here.losses, rtol=1e-12, atol=1e-12)


@every_method
def test_only_the_columns_it_reads_matter(method: Method) -> None:
    columns = batch()
    needed = method.reads | ({"exponential_draws"} if method.random else set())
    outcome = method.run({name: columns[name] for name in needed}, method.init_state())
    assert torch.equal(outcome.losses, method.run(columns, method.init_state()).losses)


def test_the_same_generator_draws_the_same_selection() -> None:
    columns = {name: column for name, column in batch(40).items() if name != "exponential_draws"}
    state = {"gap_mean": torch.tensor(0.0), "gap_std": torch.tensor(10.0)}
    first, again, other = (
        methods.apply("beta_dpo", columns, state, torch.Generator().manual_seed(seed), keep=0.5) for seed in (0, 0, 1)
    )
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


def test_rounding_noise_at_the_first_step_decides_nothing() -> None:
    """Policy = reference but for 1e-6 nats of rounding: the draws decide beta-DPO's selection, and alpha-DPO's margin
    is SimPO's."""
    columns = batch()
    for side in ("chosen", "rejected"):
        noise = 1e-6 * torch.randn(11, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        columns[f"policy_{side}_logps"] = columns[f"ref_{side}_logps"] + noise * (1 if side == "chosen" else -1)
    kept = methods.apply("beta_dpo", columns).weight
    assert torch.equal(kept == 1, columns["exponential_draws"].argsort().argsort() < 8)
    assert (methods.apply("alpha_dpo", columns).target_margin == 0.6).all()
