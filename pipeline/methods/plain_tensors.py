"""A method on plain tensors, for notebooks, research and tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float64
from torch import Tensor

from scoreonce.pipeline.methods.catalogue import resolve
from scoreonce.pipeline.methods.chain import DRAWS, Outcome


def exponential_draws(pairs: int, generator: torch.Generator | None = None) -> Float64[Tensor, "pairs"]:
    """Exp(1) draws (pairs,), float64, on the generator's device: what a random selection decides by."""
    device = generator.device if generator else torch.device("cpu")
    return torch.empty(pairs, dtype=torch.float64, device=device).exponential_(generator=generator)


def apply(
    name: str | None,
    columns: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
    *,
    objective: str | Mapping[str, float] | None = None,
    calibration: str | None = None,
    selection: str | None = None,
    training: bool = True,
    **hyperparameters: float | str,
) -> Outcome:
    """Run a method on columns named as in the schemas, each (pairs,), any float dtype; differentiable.

    >>> apply("dpo", {"policy_chosen_logps": a, "policy_rejected_logps": b, "ref_chosen_logps": c,
    ...               "ref_rejected_logps": d}, beta=0.05).loss.backward()  # doctest: +SKIP

    `name` may be any of `METHODS` or `ALIASES`; with `None`, or besides it, `objective` (also a weighted sum, e.g.
    "0.8*dpo + 0.2*sft"), `calibration` and `selection` spell the pieces out.
    `state` is the `state` of the last step's outcome, the initial one where it is absent. A random method draws from
    `generator` (torch's default one where it is absent), unless `columns` has `exponential_draws`.
    Raises `InputError` for an unknown name or hyperparameter, a value out of range, and a missing column.
    """
    method = resolve(name, hyperparameters, objective, calibration, selection)
    if method.random and DRAWS not in columns and "policy_chosen_logps" in columns:
        columns = {**columns, DRAWS: exponential_draws(len(columns["policy_chosen_logps"]), generator)}
    return method.run(columns, method.init_state() if state is None else state, training)
