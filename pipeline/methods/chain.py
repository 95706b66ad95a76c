"""A method: pieces in their order, run on the columns of one optimizer step.

Everything is computed in float64, whatever the columns' dtype: the vectors are short, and a bfloat16 sum of hundreds of
nats cannot hold a margin. Gradients have the columns' dtype.

Dimensions: pairs = the pairs of the step, over all processes and micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from scoreonce.pipeline.methods.inputs import checked
from scoreonce.pipeline.methods.pieces.derived import PRESENCE, bases, derivation
from scoreonce.pipeline.methods.pieces.reductions import weighted_mean
from scoreonce.pipeline.methods.pieces.registry import Piece, state_names
from scoreonce.pipeline.methods.pieces.standard import takes_unpaired
from scoreonce.schemas.columns import COLUMNS

DRAWS = "exponential_draws"
PROGRESS = "progress"


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    arxiv: str
    venue: str


@dataclass(frozen=True)
class Outcome:
    """The result of a method on one step. Gradients flow through `losses` and `reduced` alone.

    A column of NaN means that the method has no such value (SimPO no margin without reference columns, SFT no beta and
    no rewards); the step log has null there.
    """

    losses: Float64[Tensor, "pairs"]
    weight: Float64[Tensor, "pairs"]
    beta: Float64[Tensor, "pairs"]
    target_margin: Float64[Tensor, "pairs"]
    margin: Float64[Tensor, "pairs"]  # of log-ratios
    linked_margin: Float64[Tensor, "pairs"]  # the margin that the loss saw, where the divergence is not the reverse KL
    chosen_rewards: Float64[Tensor, "pairs"]
    rejected_rewards: Float64[Tensor, "pairs"]
    state: dict[str, Tensor]
    reduced: Float64[Tensor, ""] | None = None  # the step's loss where it is not the weighted mean; gradients flow

    @property
    def loss(self) -> Float64[Tensor, ""]:
        """The step's loss, 0-d: sum(weight * losses) / sum(weight), or what the method's reduction makes of them.

        0 where all weights are 0.
        """
        if self.reduced is not None:
            return self.reduced
        return weighted_mean(self.losses, self.weight, otherwise=torch.zeros_like(self.weight.sum()))

    @property
    def total(self) -> Float64[Tensor, ""]:
        """The step's loss times the sum of the weights, 0-d: what a step differentiates."""
        return (self.weight * self.losses).sum() if self.reduced is None else self.reduced * self.weight.sum()


@dataclass(frozen=True, eq=False)
class Method:
    """A composed method. Pure: state goes in and comes out."""

    name: str
    title: str
    paper: Paper | None
    selection: Piece
    calibrations: tuple[Piece, ...]  # the named one last, after the constants for what it leaves open
    objective: Piece
    rewards: Piece | None
    hyperparameters: dict[str, Any]
    reduction: Piece | None = None  # of the pairs' losses to the step's; None: the weighted mean

    @property
    def statistics(self) -> tuple[Piece, ...]:
        """The statistics whose state the other pieces read."""
        keepers = state_names()
        read = [name for piece in self._deciding for name in piece.columns if name in keepers]
        return tuple(dict.fromkeys(keepers[name] for name in read))

    @property
    def reads(self) -> frozenset[str]:
        """The base columns that it needs: policy and reference log-probs, lengths, scores. Pairs have both sides, so
        `has_chosen` and `has_rejected` need not be given.
        """
        made = {name for piece in self.pieces for name in (*piece.gives, *piece.initial)}
        names = [name for piece in self.pieces for name in piece.columns if name not in made]
        added = [name for piece in derivation(names) for name in piece.added(self.hyperparameters)]
        return bases([*names, *added]) - {DRAWS, PROGRESS} - PRESENCE

    @property
    def differentiable(self) -> frozenset[str]:
        """Those of `reads` for which the loss may have a gradient."""
        return frozenset(name for name in self.reads if COLUMNS[name].differentiable)

    @property
    def others(self) -> tuple[str, ...]:
        """The further scored models whose columns it reads, by name."""
        return tuple(sorted({other for name in self.reads for other in COLUMNS[name].others}))

    @property
    def batch_coupled(self) -> bool:
        """Whether a pair's loss or weight depends on the other pairs of the step."""
        return any(piece.batch_coupled for piece in self.pieces if not piece.moves_after(self.hyperparameters))

    @property
    def linked(self) -> bool:
        """Whether it is set to another divergence than the reverse KL, so that its loss sees another margin."""
        return bool(self.hyperparameters.get("divergence", "reverse_kl") != "reverse_kl")

    @property
    def takes_unpaired(self) -> bool:
        """Whether it trains on rows of one completion, given 0 as the log-probs of a side that is not there."""
        deciding = (*self.statistics, self.selection, *self.calibrations, self.objective)
        return all(takes_unpaired(piece) for piece in deciding)

    @property
    def random(self) -> bool:
        """Whether it reads `exponential_draws`, Exp(1) draws, one per pair, which the caller supplies."""
        return any(DRAWS in piece.columns for piece in self.pieces)

    @property
    def scheduled(self) -> bool:
        """Whether it reads `progress`, the share of the run's steps that are done, which the caller supplies, 0-d."""
        return any(PROGRESS in piece.columns for piece in self.pieces)

    @property
    def _deciding(self) -> tuple[Piece, ...]:
        last = [piece for piece in (self.rewards, self.reduction) if piece]
        return (self.selection, *self.calibrations, self.objective, *last)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Every piece of the chain but the derived columns, in the order in which they run."""
        return (*self.statistics, *self._deciding)

    def init_state(self) -> dict[str, Tensor]:
        """The state before the first step: float64 tensors, 0-d, or 1-D for a queue; empty for a stateless method."""
        return {
            name: torch.tensor(self.hyperparameters[start] if isinstance(start, str) else start, dtype=torch.float64)
            for piece in self.statistics
            for name, start in piece.initial.items()
        }

    def run(self, columns: Mapping[str, Tensor], state: Mapping[str, Tensor], training: bool = True) -> Outcome:
        """Losses and everything else of one step, on the device of the columns.

        `columns` are the base columns of `reads`, each (pairs,) or 0-d, of any dtype; others are ignored. A random
        method also needs `exponential_draws`; `progress` is 0 where it is not given. With `training=False` the state is
        read and not changed.
        Raises `InputError` for a missing column, a shape that is not (pairs,), and a missing state entry.
        """
        defaulted = (PRESENCE | {PROGRESS}) & {name for piece in self.pieces for name in piece.columns}
        needed = [*sorted(self.reads | defaulted), *([DRAWS] if self.random else [])]
        chain, new_state = checked(self.name, columns, needed, bases(["margin"]), state, self.init_state())
        wanted = [name for piece in self.pieces for name in piece.columns]
        for piece in derivation([*wanted, *self._logged(chain)]):
            chain |= piece(chain, self.hyperparameters)
        moving = self.statistics if training else ()
        for piece in moving:
            if not piece.moves_after(self.hyperparameters):
                new_state |= self._detached(piece, {**chain, **new_state})
        chain |= new_state
        for piece in (self.selection, *self.calibrations):
            chain |= self._detached(piece, chain)
        chain |= self.objective(chain, self.hyperparameters)
        if self.reduction:
            chain |= self.reduction(chain, self.hyperparameters)
        if self.rewards:
            chain |= self._detached(self.rewards, chain)
        for piece in moving:
            if piece.moves_after(self.hyperparameters):
                new_state |= self._detached(piece, chain)
        return self._outcome(chain, new_state)

    def _logged(self, chain: Mapping[str, Tensor]) -> list[str]:
        """The margins to log beside what the pieces read."""
        if not bases(["margin"]) <= set(chain):
            return []
        return ["margin", "linked_margin"] if self.linked else ["margin"]

    @torch.no_grad()
    def _detached(self, piece: Piece, chain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: column.detach() for name, column in piece(chain, self.hyperparameters).items()}

    def _outcome(self, chain: Mapping[str, Tensor], state: dict[str, Tensor]) -> Outcome:
        losses = chain["loss"]
        absent = torch.full_like(losses, torch.nan)

        def shown(name: str, *sides: str) -> Tensor:
            column = chain.get(name, absent).detach().expand_as(losses)
            for side in sides:  # unpaired data: no value without the completion
                if (presence := chain.get(f"has_{side}")) is not None:
                    column = torch.where(presence > 0, column, absent)
            return column

        return Outcome(
            losses=losses,
            weight=shown("weight"),
            beta=shown("beta"),
            target_margin=shown("target_margin"),
            margin=shown("margin", "chosen", "rejected"),
            linked_margin=shown("linked_margin", "chosen", "rejected") if self.linked else absent,
            chosen_rewards=shown("chosen_rewards", "chosen"),
            rejected_rewards=shown("rejected_rewards", "rejected"),
            state=state,
            reduced=chain.get("step_loss"),
        )
