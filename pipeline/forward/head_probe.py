"""How a model makes logits of hidden states, found out by running its own head on chosen ones.

A configuration declares scales and caps of logits under names that differ between models, or not at all. So hidden
states of our choice go into the model's own head: some that give logits of a usual size, and a thousand times as large
ones, which show a cap that logits of a usual size hardly reach.

Dimensions: states = hidden states tried, hidden, vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from scoreonce.pipeline.forward import architecture
from scoreonce.pipeline.forward.architecture import HeadForm
from scoreonce.pipeline.head.log_probs import ReferenceLogits
from scoreonce.schemas.errors import InputError

STATES = 16
USUAL = 4.0  # the largest logit of the smaller states, before scale and cap
FACTOR = 1e3  # of the larger states
# Between the model's logits and ours, relative to the largest. Models round theirs to half precision.
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 5e-3}
SINGLE_TOLERANCE = 1e-4
# Of a measured scale, relative: how far rounding to the dtype may put it off.
UNCERTAINTY = {torch.bfloat16: 1e-3, torch.float16: 1e-4}
SINGLE_UNCERTAINTY = 3e-7
MOST_DIGITS = 7


@torch.no_grad()
def understand_head(model: PreTrainedModel) -> None:
    """Find out the form of a model's output head, which `architecture.head_of` has from then on.

    It is the declared one where that gives the model's own logits, otherwise the one measured. Raises `InputError`
    where neither does: other layers stand before the projection, or something else happens to the logits.
    """
    if not isinstance(model.get_output_embeddings(), nn.Module):
        raise _not_understood(model, "transformers names no output embeddings of it")
    weight = architecture.head_of(model).weight
    directions = torch.randn(STATES, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight.device)
    usual = directions * (USUAL / float((directions @ weight.float().T).abs().max()))
    states = [(usual * factor).to(weight.dtype) for factor in (1.0, FACTOR)]
    try:
        own = [_own_logits(model, each) for each in states]
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise _not_understood(model, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}") from None
    vocabulary = own[0].shape[1]
    declared = architecture.declared_form(model)._replace(vocabulary=vocabulary)
    off = float("inf")
    if vocabulary <= len(weight):
        for form in (declared, _measured(model, states, own)):
            off = max(_off(model, form, *pair) for pair in zip(states, own, strict=True))
            if off <= TOLERANCE.get(model.dtype, SINGLE_TOLERANCE):
                architecture.set_head_form(model, form)
                return
    raise _not_understood(model, f"its own logits differ by {off:.1e} of the largest from those of its projection")


def _not_understood(model: PreTrainedModel, found: str) -> InputError:
    return InputError(
        f"The output head of {type(model).__name__} is not understood.",
        found=found,
        where="the probe before scoring",
        fix="Use another model: scoreonce takes heads of one projection, with a scale and a soft-cap of the logits.",
    )


def _own_logits(model: PreTrainedModel, states: Float[Tensor, "states hidden"]) -> Float[Tensor, "states vocabulary"]:
    """The model's logits of hidden states that are put in the place of its body's.

    OPT runs the decoder inside its body, not the body itself: then they are put in the place of that one's.
    """
    body = architecture.body_of(model)
    for part in (each for each in body.modules() if isinstance(each, PreTrainedModel)):
        ran: list[nn.Module] = []

        def replaced(module: nn.Module, args: tuple[Any, ...], output: Any, ran: list[nn.Module] = ran) -> Any:
            ran.append(module)
            if isinstance(output, tuple):
                return (states[None], *output[1:])
            output["last_hidden_state"] = states[None]
            return output

        hook = part.register_forward_hook(replaced)
        try:
            ids = torch.arange(len(states), device=states.device)[None]
            logits: Tensor = model(input_ids=ids, use_cache=False).logits[0]
        finally:
            hook.remove()
        if ran:
            return logits.float()
    raise ValueError("its logits are not made of what its body returns")


def _logits(model: PreTrainedModel, form: HeadForm, states: Tensor) -> Tensor:
    return ReferenceLogits(states, architecture.head_with(model, form)).logits(0, len(states)).float()


def _off(model: PreTrainedModel, form: HeadForm, states: Tensor, own: Tensor) -> float:
    """The largest difference to the model's own logits, as a share of the largest."""
    return float((_logits(model, form, states) - own).abs().max() / own.abs().max())


def _measured(model: PreTrainedModel, states: list[Tensor], own: list[Tensor]) -> HeadForm:
    """The form c tanh(s x / c), or s x, of logits x of the projection: c is where large ones end, s a least square."""
    plain = HeadForm(vocabulary=own[0].shape[1])
    usual, large = (_logits(model, plain, each).double() for each in states)
    scale, cap = _slope(usual, own[0].double()), float(own[1].abs().max())
    uncertainty = UNCERTAINTY.get(model.dtype, SINGLE_UNCERTAINTY)
    if scale == 0.0 or cap == 0.0:  # the logits are not those of the projection at all
        return plain
    if cap > 0.5 * abs(scale) * float(large.abs().max()):
        return plain._replace(scale=_declarable(scale, uncertainty))
    inside = (own[0].double() / cap).clamp(-0.999, 0.999)
    scale = _slope(usual, cap * inside.atanh())
    return plain._replace(scale=_declarable(scale, uncertainty), softcap=_declarable(cap, uncertainty))


def _slope(x: Tensor, y: Tensor) -> float:
    return float((x * y).sum() / (x * x).sum())


def _declarable(number: float, uncertainty: float) -> float:
    """The number with the fewest digits within a relative `uncertainty`, itself or as 1 / x; else the number as it is.

    Configurations have either: a scale of 0.041666668 is a division by 24.
    """
    for digits in range(1, MOST_DIGITS + 1):
        for candidate in (float(f"{number:.{digits}g}"), 1 / float(f"{1 / number:.{digits}g}")):
            if abs(candidate - number) <= uncertainty * abs(number):
                return candidate
    return number
