"""The neutral pieces: every pair kept, beta and target margin as set, rewards as beta times log-ratio."""

from __future__ import annotations

import torch

from scoreonce.pipeline.methods.pieces.derived import PRESENCE, bases
from scoreonce.pipeline.methods.pieces.hyperparameters import Beta, GammaBetaRatio
from scoreonce.pipeline.methods.pieces.registry import Piece, calibration, rewards, selection
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.schemas.columns import COLUMNS


@selection(name="all", batch_coupled=False)
def every_pair(policy_chosen_logps: StepColumn) -> StepColumn:
    """weight = 1: every pair counts the same."""
    return torch.ones_like(policy_chosen_logps)


@calibration(batch_coupled=False)
def constant() -> tuple[()]:
    """Calibrates nothing: `constant_beta` and `constant_margin` give what the objective reads."""
    return ()


@calibration("beta", batch_coupled=False)
def constant_beta(policy_chosen_logps: StepColumn, *, beta: Beta = 0.1) -> StepColumn:
    """beta as set, for every pair."""
    return torch.full_like(policy_chosen_logps, beta)


@calibration("target_margin", batch_coupled=False)
def constant_margin(policy_chosen_logps: StepColumn, *, gamma_beta_ratio: GammaBetaRatio = 0.5) -> StepColumn:
    """target_margin = gamma / beta, for every pair: nats of the objective's log-prob difference, without beta."""
    return torch.full_like(policy_chosen_logps, gamma_beta_ratio)


@rewards("chosen_rewards", "rejected_rewards")
def logratio_rewards(
    chosen_logratios: StepColumn, rejected_logratios: StepColumn, *, beta: Beta
) -> tuple[StepColumn, StepColumn]:
    """beta * (log pi - log ref) of each side, summed (DPO, section 4), with the beta that was set.

    A calibrated beta does not enter, so that the rewards of different steps compare (as beta-DPO's code logs them).
    """
    return beta * chosen_logratios, beta * rejected_logratios


@rewards("chosen_rewards", "rejected_rewards")
def calibrated_rewards(
    chosen_logratios: StepColumn, rejected_logratios: StepColumn, beta: StepColumn
) -> tuple[StepColumn, StepColumn]:
    """beta * (log pi - log ref) of each side, summed, with the beta that the pair was calibrated to."""
    return beta * chosen_logratios, beta * rejected_logratios


# They read a column for its shape alone.
NEUTRAL = {"all", "constant", "constant_beta", "constant_margin"}
SIDED = {name for name in COLUMNS if "chosen" in name or "rejected" in name} - PRESENCE


def takes_unpaired(piece: Piece) -> bool:
    """Whether a piece can be given rows of one completion: it reads no side of a pair, or is told which is there."""
    if piece.parts:
        return all(takes_unpaired(part) for part in piece.parts)
    reads_a_side = piece.name not in NEUTRAL and bool(SIDED & bases(piece.columns))
    return not reads_a_side or set(piece.columns) >= PRESENCE
