"""The auxiliary loss of routers in a step: of all its positions, however they are split."""

import numpy as np
import pytest
import torch
import transformers as tr
from tiny_models import SHAPE, VOCABULARY

from scoreonce.pipeline import methods
from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.pipeline.training.step import Collectives, Step

COEFFICIENT, TOP_K, PAIRS = 0.5, 2, 6


def problem():
    torch.manual_seed(0)
    config = tr.MixtralConfig(**{**SHAPE, "num_hidden_layers": 2}, num_local_experts=4)
    model = tr.AutoModelForCausalLM.from_config(config).eval()
    random = np.random.default_rng(0)

    def ids():
        return random.integers(3, VOCABULARY, random.integers(2, 14), dtype=np.int32)

    rows = [PromptRow(ids(), (ids(), ids())) for _ in range(PAIRS)]
    return model, rows, {f"ref_{side}_logps": torch.full((PAIRS,), -30.0).double() for side in ("chosen", "rejected")}


def gradient(budget, coefficient, processes=Collectives()):  # noqa: B008 - frozen
    model, rows, columns = problem()
    scorer = TokenScorer(model, "packed", top_k=TOP_K)
    step = Step(scorer, list(model.parameters()), methods.resolve("dpo", {}), processes, router_loss=coefficient)
    _, everything = step(rows, columns, {}, budget)
    return torch.cat([p.grad.flatten() for p in model.parameters()]), everything


def plain_loss_and_gradient():
    """transformers' own loss over one sequence per completion, and its gradient by autograd."""
    model, rows, _ = problem()
    whole = [np.concatenate([row.prompt, completion[:-1]]) for row in rows for completion in row.completions]
    ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(tokens).long() for tokens in whole], batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(tokens) for tokens in whole])[:, None]
    loss = model(input_ids=ids, attention_mask=mask.long(), output_router_logits=True).aux_loss
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return float(loss.detach()), torch.cat([g.flatten() for g in gradients])


def assert_close(found, expected):
    assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("budget", [10**6, 40])
def test_the_gradient_is_that_of_transformers_loss(budget):
    """In one micro-batch, and in several, although the loss is no sum over them."""
    loss, expected = plain_loss_and_gradient()
    without, _ = gradient(budget, 0.0)
    found, everything = gradient(budget, COEFFICIENT)
    assert float(everything["router_aux_loss"]) == pytest.approx(loss, rel=1e-5)
    assert_close(found - without, COEFFICIENT * expected)


def test_two_processes_take_the_gradient_of_one():
    """Each contributes its own sums; DDP averages their gradients."""
    whole, _ = gradient(10**6, COEFFICIENT)
    asked = [[], []]  # what each process contributes to the columns, then to the routing
    for index in range(2):
        gradient(40, COEFFICIENT, Collectives(index, 2, gather=lambda own, at=index: asked[at].append(own) or own))
    parts = []
    for index in range(2):
        totals = iter([sum(both) for both in zip(*asked, strict=True)])
        parts.append(gradient(40, COEFFICIENT, Collectives(index, 2, gather=lambda own, t=totals: next(t)))[0])
    assert_close(sum(parts) / 2, whole)
