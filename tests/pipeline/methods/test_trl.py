"""Every loss of TRL's `DPOTrainer`, run by its own `_compute_loss` on the same log-probs: losses and gradients.

The trainer's method is called on a stand-in for the trainer and for the model's output, so nothing of TRL's is
transcribed. Needs TRL (written for 1.16), which scoreonce itself does not: `pip install trl`.
"""

from typing import Any

import pytest
import torch
from trl_losses import agree, ours, problem, theirs

pytest.importorskip("trl", reason="needs TRL to compare with: pip install trl", exc_type=ImportError)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PLAIN = [
    "sigmoid",
    "hinge",
    "ipo",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]
SMOOTHED = ["robust", "exo_pair", "aot", "aot_unpaired"]
LINKED = ["sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop"]


@pytest.mark.parametrize("name", PLAIN)
def test_a_loss_type_gives_trls_number_under_its_name(name: str) -> None:
    settings = {} if name == "sft" else {"beta": 0.1}
    agree(ours(problem(), name, **settings), theirs(problem(), [name]))


@pytest.mark.parametrize("name", SMOOTHED)
def test_label_smoothing(name: str) -> None:
    """TRL's `exo_pair` takes the logarithm of its epsilon in float32: 1e-6."""
    agree(ours(problem(), name, beta=0.1, label_smoothing=0.1), theirs(problem(), [name], label_smoothing=0.1), 1e-6)


@pytest.mark.parametrize("name", LINKED)
@pytest.mark.parametrize("divergence", ["forward_kl", "js_divergence", "alpha_divergence"])
def test_divergences(name: str, divergence: str) -> None:
    """TRL's alpha is one minus ours; it knows float32 alone there."""
    given = problem(torch.float32 if divergence == "alpha_divergence" else torch.float64)
    settings: dict[str, Any] = {"label_smoothing": 0.1} if name in SMOOTHED else {}
    if divergence == "alpha_divergence":
        alpha = {"divergence_alpha": 0.7}
        named = {"f_divergence_type": divergence, "f_alpha_divergence_coef": 0.3}
    else:
        alpha, named = {}, {"f_divergence_type": divergence}
    short = {"divergence": divergence.removesuffix("_divergence")}
    agree(
        ours(given, name, beta=0.1, **short, **alpha, **settings),
        theirs(given, [name], **named, **settings),
        2e-5 if given["policy"].dtype == torch.float32 else 1e-6,
    )


def test_wpo_is_sigmoid_with_weighting() -> None:
    agree(ours(problem(), "wpo", beta=0.1, clamp="none"), theirs(problem(), ["sigmoid"], use_weighting=True))


def test_ld_dpo_is_sigmoid_with_ld_alpha() -> None:
    """The first token belongs to the prefix of both sides: there our gradient is for all tokens and for the prefix."""
    loss, _ = theirs(problem(), ["sigmoid"], ld_alpha=0.3)
    agree((ours(problem(), "ld_dpo", beta=0.1, ld_alpha=0.3)[0],) * 2, (loss, loss))


def test_a_weighted_sum() -> None:
    """TRL's recipe for MPO: bco_pair without its shift, sft over the tokens of the batch."""
    mixed = ours(problem(), None, objective="0.8*dpo + 0.2*bco_pair + 1.0*sft_tokens", beta=0.1)
    agree(mixed, theirs(problem(), ["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0]))


def test_every_loss_type_of_the_installed_trl_is_compared() -> None:
    """Read from its error message, which lists them."""
    with pytest.raises(ValueError, match="Unknown loss type") as raised:
        theirs(problem(), ["none"])
    listed = set(str(raised.value).split("[")[1].split("]")[0].replace("'", "").split(", "))
    assert listed == {*PLAIN, *SMOOTHED}
