"""Every loss of TRL's `DPOTrainer`, run by its own `_compute_loss` on the same log-probs: losses and gradients.

The trainer's method is called on a stand-in for the trainer and for the model's output, so nothing of TRL's is
transcribed. Needs TRL (written for 1.16), which scoreonce itself does not: `pip install trl`.
"""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from scoreonce.pipeline import methods

pytest.importorskip("trl", reason="needs TRL to compare with: pip install trl", exc_type=ImportError)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PAIRS, TOKENS = 7, 12
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


def problem(dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Token log-probs of chosen, then rejected completions, (2 pairs, tokens - 1), behind a prompt of one token."""
    generator = torch.Generator().manual_seed(0)
    lens = torch.randint(3, TOKENS, (2 * PAIRS,), generator=generator)
    mask = (torch.arange(1, TOKENS) <= lens[:, None]).to(dtype)
    draws = torch.rand(3, 2 * PAIRS, TOKENS - 1, generator=generator, dtype=torch.float64).to(dtype) * mask
    prefix = torch.minimum(lens[:PAIRS], lens[PAIRS:]).repeat(2)
    return {
        "lens": lens,
        "mask": mask,
        "policy": -3 * draws[0],
        "reference": -3 * draws[1],
        "collision": -draws[2],
        "prefix": (torch.arange(1, TOKENS) <= prefix[:, None]).to(dtype),
    }


def theirs(given: dict[str, Any], loss_types: list[str], **settings: Any) -> tuple[Tensor, Tensor]:
    """TRL's loss, and its gradient for each completion's summed log-prob, (2 pairs,)."""
    from trl.trainer.dpo_trainer import DPOTrainer

    log_probs = given["policy"].clone().requires_grad_()
    nothing = torch.zeros_like(given["mask"])
    output = SimpleNamespace(
        log_probs=log_probs,
        log_sum_sq_probs=given["collision"],
        entropy=nothing,
        mean_logits=nothing,
        is_top1=nothing.bool(),
    )
    trainer = SimpleNamespace(
        **{
            "model": SimpleNamespace(training=True),
            "aux_loss_enabled": False,
            "ld_alpha": None,
            "beta": 0.1,
            "precompute_ref_logps": True,
            "f_divergence_type": "reverse_kl",
            "f_alpha_divergence_coef": 0.5,
            "loss_types": loss_types,
            "loss_weights": [1.0] * len(loss_types),
            "label_smoothing": 0.0,
            "use_weighting": False,
            "args": SimpleNamespace(discopop_tau=0.05),
            "_total_train_tokens": 0,
            "_tp_size": 1,
            "_metrics": defaultdict(lambda: defaultdict(list)),
            "accelerator": SimpleNamespace(
                device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
            ),
            **settings,
        }
    )
    reference = given["reference"]
    if trainer.ld_alpha is not None:  # TRL applies it to the reference where it computes that, not here
        prefix = given["prefix"]
        reference = prefix * reference + trainer.ld_alpha * (1 - prefix) * reference
    reference = reference.sum(1)
    completion_mask = torch.cat([torch.zeros(2 * PAIRS, 1), given["mask"]], 1).long()
    inputs = {
        "input_ids": torch.ones(2 * PAIRS, TOKENS, dtype=torch.long),
        "completion_mask": completion_mask,
        "attention_mask": torch.cat([torch.ones(2 * PAIRS, 1), given["mask"]], 1).long(),
        "ref_chosen_logps": reference[:PAIRS],
        "ref_rejected_logps": reference[PAIRS:],
    }
    loss = DPOTrainer._compute_loss(trainer, lambda **_: output, inputs, False)
    loss.backward()
    assert log_probs.grad is not None
    return loss.detach(), log_probs.grad[:, 0]


def ours(given: dict[str, Any], name: str | None, **settings: Any) -> tuple[Tensor, Tensor]:
    """The same by `methods.apply`."""
    columns: dict[str, Tensor] = {}
    for side, half in (("chosen", slice(0, PAIRS)), ("rejected", slice(PAIRS, None))):
        for whose in ("policy", "reference"):
            prefix = "ref" if whose == "reference" else whose
            columns[f"{prefix}_{side}_logps"] = given[whose][half].sum(1)
            columns[f"{prefix}_{side}_prefix_logps"] = (given[whose] * given["prefix"])[half].sum(1)
        columns[f"policy_{side}_collision_logps"] = given["collision"][half].sum(1)
        columns[f"{side}_len"] = given["lens"][half]
        columns[f"policy_{side}_logps"].requires_grad_()
    outcome = methods.apply(name, columns, **settings)
    outcome.loss.backward()
    gradients = [columns[f"policy_{side}_logps"].grad for side in ("chosen", "rejected")]
    return outcome.loss.detach(), torch.cat([torch.zeros(PAIRS) if each is None else each for each in gradients])


def agree(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], rtol: float = 1e-12) -> None:
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=rtol, atol=rtol)


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
