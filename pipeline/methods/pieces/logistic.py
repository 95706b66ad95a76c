"""The loss that most papers build on."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def smoothed_logistic(logits: Tensor, label_smoothing: float) -> Tensor:
    """-(1 - e) log sigmoid(x) - e log sigmoid(-x) of each logit x; e = `label_smoothing`, the share of flipped labels.

    cDPO's loss; for e = 0 it is -log sigmoid(x).
    """
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)
