"""The loss that most papers build on."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.pieces.shapes import StepColumn


def smoothed_logistic(logits: StepColumn, label_smoothing: float) -> StepColumn:
    """-(1 - e) log sigmoid(x) - e log sigmoid(-x) of each logit x; e = `label_smoothing`, the share of flipped labels.

    cDPO's loss; for e = 0 it is -log sigmoid(x).
    """
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)
