"""Optimizers and schedules by transformers' names: each works, or is refused with a reason."""

from types import SimpleNamespace

import pytest
import torch
from transformers import SchedulerType
from transformers.training_args import OptimizerNames

from scoreonce.pipeline.training.optimizer import Masters, make_optimizer, make_scheduler
from scoreonce.schemas.errors import InputError

WORK = {"linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"}


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))


@pytest.mark.parametrize("name", [kind.value for kind in SchedulerType])
def test_every_schedule_steps_or_is_refused(name):
    optimizer = torch.optim.SGD(model().parameters(), lr=1.0)
    try:
        schedule = make_scheduler(optimizer, name, 0.1, 10)
    except InputError:
        assert name not in WORK
        return
    for _ in range(10):
        optimizer.step()
        schedule.step()


def test_a_schedule_that_follows_a_loss_is_refused():
    with pytest.raises(InputError) as raised:
        make_scheduler(torch.optim.SGD(model().parameters(), lr=1.0), "reduce_lr_on_plateau", 0.1, 10)
    assert "follows a loss on held-out data" in raised.value.found


@pytest.mark.parametrize("name", [kind.value for kind in OptimizerNames])
def test_every_optimizer_steps_or_is_refused(name):
    net = model()
    settings = SimpleNamespace(
        optimizer=name, learning_rate=1e-3, weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.99, adam_epsilon=1e-8
    )
    try:
        optimizer = make_optimizer(net, Masters.of(net.parameters()), settings)
    except InputError:
        assert name != "adamw_torch"
        return
    net(torch.ones(2, 4)).sum().backward()
    optimizer.step()
