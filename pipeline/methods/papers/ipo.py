"""IPO: Azar et al. 2024, "A General Theoretical Paradigm to Understand Learning from Human Preferences"."""

from __future__ import annotations

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards


@objective(rewards=logratio_rewards)
def ipo(normalised_margin: StepColumn, beta: StepColumn) -> StepColumn:
    """(Delta - 1 / (2 beta))^2, per pair (pairs,); beta is the paper's tau (Eq. 17).

    Sources differ in the unit of Delta, and with it in the scale of beta. `normalisation = "average"` (the default,
    as TRL and HALOs): each side's log-ratio is divided by its own length first, nats per token. `"sum"`: the paper's
    formula and the DPO authors' code, nats. The logged rewards are beta times the summed log-ratios under both.
    """
    return (normalised_margin - 1 / (2 * beta)).square()


method(
    "ipo",
    "Identity preference optimisation: squared distance to a margin of 1 / (2 beta)",
    paper=Paper(
        "A General Theoretical Paradigm to Understand Learning from Human Preferences", "2310.12036", "AISTATS 2024"
    ),
    objective=ipo,
    synonyms={"tau": "beta", "f_divergence_type": "divergence"},
)
