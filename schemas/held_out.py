"""The columns of the held-out figures while training: a row per evaluation, each figure over the same pairs.

Apart from `columns.py`, whose columns hold a number per pair or completion and may be named by a method.
"""

from __future__ import annotations

from scoreonce.schemas.columns import Column

PER_TOKEN = "nats per token"


def _per_token(name: str, meaning: str) -> Column:
    return Column(name, "float64", meaning, PER_TOKEN, nullable=True)


STEP = Column(
    "step", "int64", "optimizer steps before the evaluation; 0: the policy that training starts from", minimum=0
)
PAIRS = Column("pairs", "int64", "held-out pairs that were scored, the same ones each time", minimum=1)
LOSS = Column("loss", "float64", "the method's loss, with these pairs as one batch", nullable=True)
ACCURACY = Column(
    "accuracy",
    "float64",
    "share of pairs with a positive margin, ties half; of unpaired data, how often a good completion has a higher "
    "log-ratio than a bad one",
    minimum=0,
    maximum=1,
    nullable=True,
)
MARGIN = Column(
    "margin", "float64", "mean of chosen minus rejected log-ratio per completion, without beta", "nats", nullable=True
)
CHOSEN_LOGRATIO = _per_token(
    "chosen_logratio_per_token", "log-ratios of the chosen completions, summed, by their tokens"
)
REJECTED_LOGRATIO = _per_token(
    "rejected_logratio_per_token", "log-ratios of the rejected completions, summed, by their tokens"
)
CROSS_ENTROPY_INCREASE = _per_token(
    "cross_entropy_increase",
    "reference minus policy log-probs of both sides, by their tokens: an estimate of KL(reference || policy) where the "
    "reference wrote the completions",
)
ENTROPY = _per_token(
    "entropy_per_token", "mean entropy of the policy's next-token distribution at the tokens of both sides"
)
SECONDS = Column("seconds", "float64", "time of the evaluation, on the first process", "seconds", minimum=0)
PAIR_LOSSES = Column(
    "pair_losses",
    "list[float32]",
    "part of each pair in the loss, in the order of the sample: their mean is the loss",
    nullable=True,
)
