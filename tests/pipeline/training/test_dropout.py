"""Dropout: the same noise for the same rows in a step, so that a step's two passes belong together."""

import pytest
import torch
from tiny_models import random_rows, tiny_model

from scoreonce.pipeline import methods
from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.training.dropout import seeded, switched_on
from scoreonce.pipeline.training.policy_columns import PolicyColumns
from scoreonce.pipeline.training.step import Step, column_gradients


def test_noise_is_of_seed_step_and_rows_alone():
    one, two = random_rows(2)

    def draws(rows, *, seed=0, step=1):
        return seeded(lambda rows: torch.rand(3), seed, step)(rows)

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = draws([one])
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert torch.equal(draws([one]), first)
    for other in (draws([two]), draws([one, two]), draws([one], step=2), draws([one], seed=1)):
        assert not torch.equal(other, first)


def test_modules_are_switched_on_for_a_while():
    modules = [torch.nn.Dropout(0.5).eval()]
    with switched_on(modules):
        assert modules[0].training
    assert not modules[0].training


class Noisy(torch.nn.Module):
    """A scorer whose hidden states lose a part."""

    def __init__(self):
        super().__init__()
        self.model = tiny_model("llama")
        self.model.model.norm.register_forward_hook(lambda *args: torch.nn.functional.dropout(args[2], 0.2))
        self.scorer = TokenScorer(self.model, "padded")

    def forward(self, rows, **options):
        return self.scorer(rows, **options)


@pytest.mark.parametrize("name", ["alpha_dpo", "kto"])
def test_the_gradient_is_that_of_the_columns_that_the_method_saw(name):
    """Against autograd through all micro-batches at once. KTO's mismatched completions are forwarded again too."""
    method, model = methods.resolve(name, {}), Noisy()
    rows = [PromptRow(row.prompt, (row.completions * 3)[:3]) for row in random_rows(6, seed=3)]
    count = len(rows)
    columns = {c: torch.linspace(-1, 1, count, dtype=torch.float64) for c in method.reads if c.startswith("ref_")}
    columns |= {c: torch.full((count,), 4.0, dtype=torch.float64) for c in method.reads if c.endswith("_len")}
    columns |= {c: torch.ones(count, dtype=torch.float64) for c in ("has_chosen", "has_rejected") if c in method.reads}
    scorer, one_each = seeded(model, 0, 1), lambda lengths, _: [[number] for number in range(len(lengths))]
    parameters = list(model.parameters())
    step = Step(scorer, parameters, method, split=one_each, noisy=True)
    outcome, _ = step(rows, columns, method.init_state(), 64)
    ours = torch.cat([p.grad.flatten() for p in parameters])
    model.zero_grad()
    asked = PolicyColumns.of(method.reads)
    made = [step._forward(rows, [number], asked).columns for number in range(count)]
    joined = {key: torch.cat([part[key] for part in made]) for key in made[0]}
    _, gradients = column_gradients(
        method, {**columns, **{key: value.detach() for key, value in joined.items()}}, method.init_state()
    )
    loss = sum((gradients[key] * joined[key]).sum() for key in gradients) / outcome.weight.sum()
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in parameters])
    assert (ours - expected).norm() < 1e-5 * expected.norm()
