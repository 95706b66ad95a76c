"""Activation offloading, on a CPU: what goes away, when it comes back, and that nothing else changes."""

import pytest
import torch
from tiny_models import random_rows, tiny_model

from scoreonce.pipeline.forward import activation_offload
from scoreonce.pipeline.forward.scorer import TokenScorer
from scoreonce.stages.models import loading

LAYERS = 4


@pytest.fixture
def calls(monkeypatch):
    """What is done with the inputs of blocks, by their number: in order."""
    done, numbers = [], {}
    monkeypatch.setattr(activation_offload, "LEAST_BYTES", 1)

    class Noted(activation_offload._Away):
        def __init__(self, tensor, before):
            numbers[id(self)] = len(numbers)
            done.append(("away", numbers[id(self)]))
            self.kept = self  # so that no other takes its identity
            super().__init__(tensor, before)

        def fetch(self):
            if self.back is None:
                done.append(("fetch", numbers[id(self)]))
            super().fetch()

        def tensor(self):
            done.append(("needed", numbers[id(self)]))
            return super().tensor()

    monkeypatch.setattr(activation_offload, "_Away", Noted)
    return done


def gradients(offload, batches, dtype=torch.float32):
    model = tiny_model("llama").to(dtype)
    loading.recompute_activations(model, offload=offload)
    scorer = TokenScorer(model, "packed")
    made = [scorer(rows) for rows in batches]  # all graphs at once
    for each in made:
        each.sums().sum().backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_stay_as_they_are(calls, dtype):
    batches = [random_rows(3), random_rows(5)]
    found = gradients(True, batches, dtype)
    assert calls.count(("needed", 0)) == 1
    assert len([call for call in calls if call[0] == "away"]) == 2 * LAYERS
    for ours, theirs in zip(found, gradients(False, batches, dtype), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)  # the same operations on the same values


def test_each_is_fetched_one_block_before_it_is_needed(calls):
    gradients(True, [random_rows(3)])
    assert calls == [
        *(("away", number) for number in range(LAYERS)),
        ("needed", 3),
        ("fetch", 3),
        ("fetch", 2),
        ("needed", 2),
        ("fetch", 1),
        ("needed", 1),
        ("fetch", 0),
        ("needed", 0),
    ]


def test_what_is_away_is_no_view_of_the_original():
    tensor = torch.arange(6.0).reshape(2, 3).t()
    away = activation_offload._Away(tensor, None)
    expected = tensor.clone()
    tensor.zero_()
    assert torch.equal(away.tensor(), expected)


def test_small_tensors_stay():
    offload, small = activation_offload.ActivationOffload(), torch.zeros(activation_offload.LEAST_BYTES // 4 - 1)
    assert offload._pack(small) is small
    assert isinstance(offload._pack(torch.zeros(activation_offload.LEAST_BYTES // 4)), activation_offload._Away)
