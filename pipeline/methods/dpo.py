"""DPO: Rafailov et al. 2023, "Direct Preference Optimization"; with label smoothing it is Mitchell's cDPO (2023)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from scoreonce.pipeline.methods.catalogue import method
from scoreonce.pipeline.methods.chain import Paper
from scoreonce.pipeline.methods.hyperparameters import LabelSmoothing
from scoreonce.pipeline.methods.plain import logratio_rewards
from scoreonce.pipeline.methods.registry import objective


@objective(rewards=logratio_rewards)
def dpo(margin: Tensor, beta: Tensor, *, label_smoothing: LabelSmoothing = 0.0) -> Tensor:
    """-(1 - e) log sigmoid(beta Delta) - e log sigmoid(-beta Delta), per pair (pairs,); Delta = `margin`.

    DPO Eq. 7 for e = `label_smoothing` = 0; cDPO otherwise, e being the assumed share of flipped labels. Log-probs
    are summed over the completion, in nats. TRL ignores label smoothing for its `sigmoid` loss from 1.0 on.
    """
    logits = beta * margin
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


method("dpo", "Direct preference optimisation; cDPO with label_smoothing > 0",
       paper=Paper("Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
                   "2305.18290", "NeurIPS 2023"),
       objective=dpo)
