"""TRL's losses, by its own `_compute_loss`, and ours on the same log-probs."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from scoreonce.pipeline import methods

PAIRS, TOKENS = 7, 12


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
