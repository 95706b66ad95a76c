"""Optimizers and schedules by transformers' names: each works, or is refused with a reason."""

import re
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from transformers import SchedulerType
from transformers.training_args import OptimizerNames

from scoreonce.pipeline.training.optimizer import Masters, make_optimizer, make_scheduler
from scoreonce.schemas.errors import InputError

WORK = {"linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"}


ALONE = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}  # need no other package


def works(name: str) -> bool:
    """Whether an optimizer cannot be refused here."""
    bits = find_spec("bitsandbytes") is not None and re.search("bnb|paged|^(adamw|lion|ademamix)_(8|32)bit$", name)
    few = find_spec("torchao") is not None and re.search("^adamw_torch_[48]bit$", name)
    return name in ALONE or bool(bits) or bool(few)


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
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Paged optimizers are not supported on CPU")
def test_every_optimizer_steps_or_is_refused(name):
    net = model()
    settings = SimpleNamespace(
        optimizer=name, learning_rate=1e-3, weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.99, adam_epsilon=1e-8
    )
    try:
        optimizer = make_optimizer(net, Masters.of(net.parameters()), settings)
    except InputError:
        assert not works(name)
        return
    net(torch.ones(2, 4)).sum().backward()
    with torch.compiler.set_stance("force_eager"):  # torchao compiles its step, which takes half a minute
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offloaded_masters_are_copies_of_every_weight(dtype):
    """SGD with rate 0.5 on weights 1 and gradient 2: 1 - 0.5 x 2 = 0, in the model once the masters give it back."""
    net = torch.nn.Linear(2, 1, bias=False).to(dtype)
    torch.nn.init.ones_(net.weight)
    masters = Masters.of(net.parameters(), offloads=True)
    (master,) = masters.masters
    assert master.dtype == torch.float32
    assert (master.device.type, master.data_ptr() == net.weight.data_ptr()) == ("cpu", False)
    optimizer = torch.optim.SGD(masters.masters, lr=0.5)
    net(torch.full((1, 2), 2.0, dtype=dtype)).sum().backward()
    masters.take_gradients()
    assert net.weight.grad is None  # a GPU has none of it left
    assert master.grad.tolist() == [[2.0, 2.0]]
    optimizer.step()
    assert net.weight.tolist() == [[1.0, 1.0]]
    masters.give_weights()
    assert net.weight.tolist() == [[0.0, 0.0]]
