"""Names of the metrics of a training step: keys of metrics.jsonl, columns of metrics.parquet, figures of trackers.

Where TRL has the metric the name is TRL's, so that one dashboard shows both; `TRL` lists those.
"""

from __future__ import annotations

STEP = "step"  # from 1
EPOCH = "epoch"  # from 0
LOSS = "loss"
AUX_LOSS = "aux_loss"  # of routers
REWARDS_CHOSEN = "rewards/chosen"
REWARDS_REJECTED = "rewards/rejected"
MARGINS = "rewards/margins"
ACCURACIES = "rewards/accuracies"  # share in [0, 1]
LOGPS = {"chosen": "logps/chosen", "rejected": "logps/rejected"}  # nats, summed over a completion
BETA_MEAN = "beta/mean"
BETA_MIN = "beta/min"
BETA_MAX = "beta/max"
TARGET_MARGIN = "target_margin/mean"
KEPT = "selection/kept"  # share of the pairs whose weight is not 0
GRAD_NORM = "grad_norm"  # before clipping
LEARNING_RATE = "learning_rate"
SECONDS = "perf/seconds"  # of the step
PAIRS_PER_SECOND = "perf/pairs_per_second"
TOKENS_PER_SECOND = "perf/tokens_per_second"
PEAK_MEMORY = "perf/peak_memory"  # bytes, so far: of the GPU, or of the whole process where there is none

# What TRL's `DPOTrainer` and the `Trainer` beneath it log under the same names.
TRL = (
    EPOCH,
    LOSS,
    AUX_LOSS,
    REWARDS_CHOSEN,
    REWARDS_REJECTED,
    MARGINS,
    ACCURACIES,
    *LOGPS.values(),
    GRAD_NORM,
    LEARNING_RATE,
)


def state(name: str) -> str:
    """The name of an entry of the method's state, which differs from method to method."""
    return f"state/{name}"
