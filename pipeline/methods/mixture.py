"""Weighted sums of objectives, e.g. 0.8*dpo + 0.2*bco + sft."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from scoreonce.pipeline.methods.pieces.hyperparameters import WHERE
from scoreonce.pipeline.methods.pieces.registry import Piece
from scoreonce.schemas.errors import InputError

TERM = re.compile(r"(?:(?P<weight>[0-9.]+(?:[eE][+-]?\d+)?)\s*\*\s*)?(?P<name>\w+)")


def weighted_sum(terms: Mapping[Piece, float]) -> Piece:
    """The objective whose loss of a pair is the weighted sum of these objectives' losses of it.

    Hyperparameters of one name are one setting; where defaults differ, the later objective's stands. Rewards are
    logged as by the first that has any.
    """
    columns = tuple(dict.fromkeys(column for piece in terms for column in piece.columns))
    settings = {name: each for piece in terms for name, each in piece.hyperparameters.items()}

    def function(*values: Tensor, **given: float | str) -> Tensor:
        named = dict(zip(columns, values, strict=True))
        return torch.stack([weight * piece(named, given)["loss"] for piece, weight in terms.items()]).sum(0)

    name = " + ".join(f"{weight:g}*{piece.name}" for piece, weight in terms.items())
    function.__doc__ = f"{name}, per pair (pairs,): the weighted sum of these objectives' losses of the pair."
    return Piece(
        "objective",
        name,
        function,
        columns,
        settings,
        ("loss",),
        batch_coupled=any(piece.batch_coupled for piece in terms),
        recouples=any(piece.recouples for piece in terms),
        rewards=next((piece.rewards for piece in terms if piece.rewards), None),
        parts=tuple(terms),
        defaults={name: value for piece in terms for name, value in piece.defaults.items()},
    )


def parsed(text: str) -> dict[str, float]:
    """The terms of `0.8*dpo + 0.2*bco + sft`: name and weight; 1 where none is written.

    Raises `InputError` where it is not such a sum.
    """
    # An exponent's sign is no plus between terms.
    found = [TERM.fullmatch(term.strip()) for term in re.split(r"(?<![eE])\+", text)]
    terms = {match["name"]: float(match["weight"] or 1) for match in found if match}
    if len(terms) != len(found):
        raise InputError(
            "The objective is not a weighted sum of objectives.",
            found=f"objective = {text!r}",
            where=WHERE,
            fix='Write it as "0.8*dpo + 0.2*sft", each objective once.',
        )
    return terms


def checked_weights(terms: Mapping[str, float]) -> Mapping[str, float]:
    """The terms. Raises `InputError` where there are none, or a weight is not a finite number above 0."""
    wrong = [
        name
        for name, weight in terms.items()
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf
    ]
    if wrong or not terms:
        raise InputError(
            "The weights of the objectives cannot be used.",
            found=", ".join(f"{name} = {terms[name]!r}" for name in wrong) or "no objective",
            where=WHERE,
            fix="Give each objective a finite weight above 0, or leave it out.",
        )
    return terms
