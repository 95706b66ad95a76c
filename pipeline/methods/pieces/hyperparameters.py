"""Hyperparameters: the values that each takes, declared once, in the signature of the function that reads it.

A keyword-only parameter of a piece is a hyperparameter: its default stands in the signature, its meaning and range in
`Annotated[float, Allowed(...)]`, its choices in a `Literal`. Those that several papers share are named here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from scoreonce.schemas.errors import InputError, did_you_mean

WHERE = "[train] of the run file, --set, or the arguments of methods.apply"

SYNONYMS = {"lambda": "lam", "ls": "label_smoothing"}  # of every method that has no hyperparameter of that name


@dataclass(frozen=True)
class Allowed:
    """What a hyperparameter means and which finite numbers it takes."""

    meaning: str
    above: float = -math.inf
    at_least: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf

    def contains(self, value: float) -> bool:
        """Whether a number is finite and within the bounds."""
        # The strict bounds are infinite where none is stated: that refuses the infinities, and any bound refuses NaN.
        return self.above < value < self.below and self.at_least <= value <= self.at_most

    def __str__(self) -> str:
        bounds = {"above": self.above, "at least": self.at_least, "at most": self.at_most, "below": self.below}
        stated = [f"{words} {bound:g}" for words, bound in bounds.items() if math.isfinite(bound)]
        return " and ".join(stated)


@dataclass(frozen=True)
class Hyperparameter:
    """One setting of a piece. `default` is None where another piece of the method gives it."""

    name: str
    kind: type
    allowed: Allowed
    choices: tuple[str, ...] = ()
    default: Any = None

    @classmethod
    def of(cls, name: str, annotation: Any, default: Any) -> Hyperparameter:
        """Read from a signature: `Annotated[float, Allowed(...)]`, `Annotated[Literal[...], Allowed(...)]` or bare."""
        allowed = Allowed("")
        if get_origin(annotation) is Annotated:
            annotation, allowed, *_ = get_args(annotation)
        choices = get_args(annotation) if get_origin(annotation) is Literal else ()
        return cls(name, str if choices else annotation, allowed, choices, default)

    @property
    def takes(self) -> str:
        """The values it takes, in words."""
        if self.choices:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        bounds = str(self.allowed)
        return f"{'a whole number' if self.kind is int else 'a number'} {bounds}" if bounds else "any finite number"

    def check(self, value: Any, method: str) -> Any:
        """The value, converted to its type. Raises `InputError` for a wrong type and a value out of range."""
        if self.choices:
            if value in self.choices:
                return value
            near = did_you_mean(value, list(self.choices)) if isinstance(value, str) else ""
            raise self._refused(value, method, near)
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if not numeric or not self.allowed.contains(value) or (self.kind is int and value != int(value)):
            raise self._refused(value, method)
        return self.kind(value)

    def _refused(self, value: Any, method: str, near: str = "") -> InputError:
        return InputError(
            f"{self.name} of method {method} cannot be {value!r}.",
            found=f"{self.name} = {value!r}.{near}",
            where=WHERE,
            fix=f"{self.name} is {self.allowed.meaning or 'a setting'}: give {self.takes}.",
        )


Beta = Annotated[float, Allowed("the scale of the implicit reward, the strength of the KL constraint", above=0)]
LabelSmoothing = Annotated[float, Allowed("the assumed share of flipped labels", at_least=0, below=0.5)]
GammaBetaRatio = Annotated[
    float, Allowed("the target margin, gamma / beta, in nats of the log-prob difference", at_least=0)
]
CompletionWeight = Annotated[float, Allowed("the weight of these completions' losses", at_least=0)]
Momentum = Annotated[float, Allowed("the share of a running statistic that each step keeps", at_least=0, below=1)]
Normalisation = Annotated[
    Literal["average", "sum"], Allowed("whether a completion's log-prob is its average per token or its sum")
]
Divergence = Annotated[
    Literal["reverse_kl", "forward_kl", "js", "alpha"],
    Allowed("the divergence from the reference that the objective is built on"),
]
DivergenceAlpha = Annotated[float, Allowed("alpha of the alpha-divergence; 1 is the forward KL, 0 the reverse KL")]
