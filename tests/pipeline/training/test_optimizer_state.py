"""The state of optimizers that keep more than tensors and numbers, to tensors by name and JSON, and back."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load, save
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from scoreonce.pipeline.training.optimizer import Masters, make_optimizer
from scoreonce.pipeline.training.optimizer_state import put_together, taken_apart

NAMES = ["0.weight", "0.bias"]


class EightBit(torch.optim.Optimizer):
    """What torchao's and bitsandbytes' optimizers of 8 bits keep, in one: see `step`."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": torch.tensor(0.1), "betas": (0.5, 0.25), "unset": None})
        self.table = torch.linspace(-1, 1, 256)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                if not state:
                    state["step"], state["unset"] = 0, None
                    state["moment"] = TwoTensor(torch.zeros_like(parameter), torch.ones_like(parameter))
                    state["nested"] = {
                        "codes": torch.zeros_like(parameter, dtype=torch.uint8),
                        "table": self.table,  # shared among parameters
                        "kind": "linear",
                    }
                state["step"] += 1
                moment = TwoTensor(state["moment"].a * 0.5 + parameter.grad, state["moment"].b * 0.75)
                state["moment"] = moment
                state["nested"]["codes"] += 1
                at = state["nested"]["table"][state["nested"]["codes"].long()]
                parameter -= group["lr"] * (moment.a + moment.b + at)


def built():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    return model, EightBit(model.parameters())


def train(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        model(torch.full((1, 3), float(step))).square().sum().backward()
        optimizer.step()


def kept(optimizer):
    """The state through the bytes of the two files that a checkpoint has."""
    tensors, rest = taken_apart(optimizer, NAMES)
    return load(save(tensors)), json.loads(json.dumps(rest))


def test_training_goes_on_as_if_it_had_not_stopped():
    whole, stopped, resumed = built(), built(), built()
    train(*whole, range(4))
    train(*stopped, range(2))
    tensors, rest = kept(stopped[1])
    assert set(tensors) == {
        f"{name}/{part}" for name in NAMES for part in ("moment/a", "moment/b", "nested/codes", "nested/table")
    }
    assert rest["state"]["0.bias"] == {"step": 2, "unset": None, "nested": {"kind": "linear"}}
    assert rest["groups"][0]["lr"] == pytest.approx(0.1)
    put_together(resumed[1], NAMES, tensors, rest)
    resumed[0].load_state_dict(stopped[0].state_dict())
    train(*resumed, range(2, 4))
    for expected, found in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(expected, found)
    state = resumed[1].state[resumed[0][0].weight]
    assert is_traceable_wrapper_subclass(state["moment"])
    assert isinstance(resumed[1].param_groups[0]["lr"], torch.Tensor)


def test_the_class_of_a_tensor_comes_from_the_optimizer():
    """A checkpoint may come from someone else: it names no class that would be imported."""
    model, optimizer = built()
    train(model, optimizer, range(1))
    assert "TwoTensor" not in json.dumps(taken_apart(optimizer, NAMES)[1])


def test_the_state_of_a_parameter_that_is_not_there_is_refused():
    model, optimizer = built()
    train(model, optimizer, range(1))
    tensors, rest = kept(optimizer)
    with pytest.raises(KeyError):
        put_together(optimizer, NAMES, {**tensors, "1.weight/moment/a": torch.zeros(1)}, rest)


BITSANDBYTES = (
    "adamw_bnb_8bit",
    "lion_8bit",
    "ademamix_8bit",
    "rmsprop_bnb_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "paged_ademamix_8bit",
    "paged_lion_8bit",
)


@pytest.mark.parametrize(
    ("name", "package"),
    [("adamw_torch_8bit", "torchao"), ("adamw_torch_4bit", "torchao")]
    + [(name, "bitsandbytes") for name in BITSANDBYTES],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Paged optimizers are not supported on CPU")
def test_the_state_of_real_optimizers_goes_on(name, package):
    """8,192 weights in a matrix, whose state is in few bits, and a bias, whose state is not: bit for bit the same."""
    pytest.importorskip(package)
    settings = SimpleNamespace(
        optimizer=name, learning_rate=1e-2, weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.99, adam_epsilon=1e-8
    )

    def built():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 128))
        return model, make_optimizer(model, Masters.of(model.parameters()), settings)

    def train(model, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            model(torch.linspace(-1, 1, 64) * step).square().sum().backward()
            optimizer.step()

    whole, stopped, resumed = built(), built(), built()
    with torch.compiler.set_stance("force_eager"):  # torchao compiles its step, which takes half a minute
        train(*whole, range(1, 5))
        train(*stopped, range(1, 3))
        tensors, rest = kept(stopped[1])
        assert any(tensor.dtype == torch.uint8 for tensor in tensors.values()) == ("32bit" not in name)
        put_together(resumed[1], NAMES, tensors, rest)
        resumed[0].load_state_dict(stopped[0].state_dict())
        train(*resumed, range(3, 5))
    for before, expected, found in zip(
        built()[0].parameters(), whole[0].parameters(), resumed[0].parameters(), strict=True
    ):
        assert torch.equal(expected, found)
        assert not torch.equal(before, found)


class Paged(torch.optim.SGD):
    """Keeps a moment in pages of its own, as bitsandbytes does on a GPU; loading puts another tensor there."""

    is_paged = False

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.5)
        self.is_paged = True

    @torch.no_grad()
    def step(self):
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if "moment" not in self.state[parameter]:
                page = torch.zeros_like(parameter)
                page.is_paged = True
                self.state[parameter] = {"moment": page, "seen": 0}
            self.state[parameter]["moment"] += parameter.grad
            self.state[parameter]["seen"] += 1


def test_paged_state_stays_in_its_pages():
    """Without that it would all stay on the GPU after a restart."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    first, second = Paged(model.parameters()), Paged(model.parameters())
    train(model, first, range(1, 3))
    put_together(second, NAMES, *kept(first))
    for parameter in model.parameters():
        page = second.state[parameter]["moment"]
        assert page.is_paged
        assert torch.equal(page, first.state[parameter]["moment"])
        assert second.state[parameter]["seen"] == 2
