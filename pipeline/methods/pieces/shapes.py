"""The shapes that pieces read and give; the tests check them, a training run does not.

Dimensions: pairs = pairs of the optimizer step.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

PerPair = Float[Tensor, "pairs"]
PerStep = Float[Tensor, ""]  # one number for the whole step: state, a shared beta
StepColumn = PerPair | PerStep
Queue = Float[Tensor, "_"]  # values of earlier steps, oldest first, of any number
