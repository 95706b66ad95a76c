"""rDPO: Chowdhury et al. 2024, "Provably Robust DPO: Aligning Language Models with Noisy Feedback"."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.pieces.hyperparameters import LabelSmoothing
from scoreonce.pipeline.methods.pieces.registry import objective
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.pipeline.methods.pieces.standard import logratio_rewards


@objective(rewards=logratio_rewards)
def robust(linked_margin: StepColumn, beta: StepColumn, *, label_smoothing: LabelSmoothing = 0.1) -> StepColumn:
    """(-(1 - e) log sigmoid(beta Delta) + e log sigmoid(-beta Delta)) / (1 - 2 e), per pair (pairs,).

    e = `label_smoothing` is the share of flipped labels, below 1/2; the loss is an unbiased estimate of DPO's on clean
    labels. It has no lower bound, and is negative for large margins, by design. TRL's `robust`, where e is 0
    unless set. Delta as in `dpo`. Not `ropo`, which suppresses pairs that look mislabelled, nor RPO, which adds a
    likelihood term.
    """
    logits = beta * linked_margin
    flipped = label_smoothing
    return (-(1 - flipped) * logsigmoid(logits) + flipped * logsigmoid(-logits)) / (1 - 2 * flipped)


method(
    "robust",
    "DPO unbiased under a known rate of flipped labels (rDPO)",
    paper=Paper("Provably Robust DPO: Aligning Language Models with Noisy Feedback", "2403.00409", "ICML 2024"),
    objective=robust,
    aliases={"rdpo": {}, "robust_dpo": {}},
)
