"""f-divergences: what stands in the place of the log-ratio where the KL constraint is another divergence.

Wang et al. 2024, "Beyond Reverse KL": the implicit reward is beta f'(pi / ref) + beta log Z (Eq. 9), so that every loss
of the difference of two rewards has a form for each f.
"""

from __future__ import annotations

import math

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.pieces.shapes import StepColumn

LARGEST = 80.0  # exp of it is finite in float32 too; the gradient beyond is 0


def link(logratios: StepColumn, divergence: str, alpha: float) -> StepColumn:
    """f'(u), u = pi / ref = exp(logratios), (pairs,).

    reverse_kl: log u. forward_kl: 1 - 1 / u. js: log(2 u / (1 + u)). alpha: (1 - u^-alpha) / alpha, which is the
    forward KL at alpha = 1 and the reverse KL at alpha -> 0. Powers of u are capped at e^80, as in TRL 1.16.
    """
    match divergence:
        case "js":
            return math.log(2) + logsigmoid(logratios)
        case "forward_kl":
            return 1 - (-logratios).clamp(max=LARGEST).exp()
        case "alpha" if abs(alpha) > 1e-6:
            return (1 - (-alpha * logratios).clamp(max=LARGEST).exp()) / alpha
        case _:
            return logratios
