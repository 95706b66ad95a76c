"""Columns derived from others, on demand. Each function is named as the column it gives; all are (pairs,), in nats."""

from __future__ import annotations

from collections.abc import Iterable

from scoreonce.pipeline.methods.pieces.divergences import link
from scoreonce.pipeline.methods.pieces.hyperparameters import Divergence, DivergenceAlpha, Normalisation
from scoreonce.pipeline.methods.pieces.registry import PIECES, Piece, derived
from scoreonce.pipeline.methods.pieces.shapes import StepColumn
from scoreonce.schemas.columns import HAS_CHOSEN, HAS_REJECTED

PRESENCE = {HAS_CHOSEN.name, HAS_REJECTED.name}


def _normalised(total: StepColumn, length: StepColumn, normalisation: Normalisation) -> StepColumn:
    return total / length if normalisation == "average" else total


@derived
def chosen_logratios(policy_chosen_logps: StepColumn, ref_chosen_logps: StepColumn) -> StepColumn:
    """log pi(y_w) - log ref(y_w), summed over the completion."""
    return policy_chosen_logps - ref_chosen_logps


@derived
def rejected_logratios(policy_rejected_logps: StepColumn, ref_rejected_logps: StepColumn) -> StepColumn:
    """log pi(y_l) - log ref(y_l), summed over the completion."""
    return policy_rejected_logps - ref_rejected_logps


@derived
def margin(chosen_logratios: StepColumn, rejected_logratios: StepColumn) -> StepColumn:
    """Chosen minus rejected log-ratio, summed, without beta: the papers' Delta, or gap."""
    return chosen_logratios - rejected_logratios


@derived
def linked_chosen_logratios(
    chosen_logratios: StepColumn, *, divergence: Divergence = "reverse_kl", divergence_alpha: DivergenceAlpha = 0.5
) -> StepColumn:
    """f'(pi / ref) of the chosen completion: its log-ratio under the reverse KL, else `divergences.link`."""
    return link(chosen_logratios, divergence, divergence_alpha)


@derived
def linked_rejected_logratios(
    rejected_logratios: StepColumn, *, divergence: Divergence = "reverse_kl", divergence_alpha: DivergenceAlpha = 0.5
) -> StepColumn:
    """f'(pi / ref) of the rejected completion: its log-ratio under the reverse KL, else `divergences.link`."""
    return link(rejected_logratios, divergence, divergence_alpha)


@derived
def linked_margin(linked_chosen_logratios: StepColumn, linked_rejected_logratios: StepColumn) -> StepColumn:
    """`margin` under the divergence that the method is set to: the same, under the reverse KL."""
    return linked_chosen_logratios - linked_rejected_logratios


@derived
def prefix_margin(
    policy_chosen_prefix_logps: StepColumn,
    policy_rejected_prefix_logps: StepColumn,
    ref_chosen_prefix_logps: StepColumn,
    ref_rejected_prefix_logps: StepColumn,
) -> StepColumn:
    """`margin` over the first min(|y_w|, |y_l|) tokens of each completion."""
    return (
        policy_chosen_prefix_logps
        - ref_chosen_prefix_logps
        - (policy_rejected_prefix_logps - ref_rejected_prefix_logps)
    )


@derived
def kl_logratios(policy_kl_logps: StepColumn, ref_kl_logps: StepColumn) -> StepColumn:
    """log pi - log ref of the mismatched completion, summed."""
    return policy_kl_logps - ref_kl_logps


@derived
def normalised_policy_chosen_logps(
    policy_chosen_logps: StepColumn, chosen_len: StepColumn, *, normalisation: Normalisation = "average"
) -> StepColumn:
    """log pi(y_w), per token ("average") or summed ("sum")."""
    return _normalised(policy_chosen_logps, chosen_len, normalisation)


@derived
def normalised_policy_rejected_logps(
    policy_rejected_logps: StepColumn, rejected_len: StepColumn, *, normalisation: Normalisation = "average"
) -> StepColumn:
    """log pi(y_l), per token ("average") or summed ("sum")."""
    return _normalised(policy_rejected_logps, rejected_len, normalisation)


@derived
def normalised_policy_margin(
    normalised_policy_chosen_logps: StepColumn, normalised_policy_rejected_logps: StepColumn
) -> StepColumn:
    """Chosen minus rejected log-prob under the policy alone: SimPO's difference, without beta."""
    return normalised_policy_chosen_logps - normalised_policy_rejected_logps


@derived
def normalised_chosen_logratios(
    linked_chosen_logratios: StepColumn, chosen_len: StepColumn, *, normalisation: Normalisation = "average"
) -> StepColumn:
    """Chosen log-ratio (f'(pi / ref) in general), per token ("average") or summed ("sum")."""
    return _normalised(linked_chosen_logratios, chosen_len, normalisation)


@derived
def normalised_rejected_logratios(
    linked_rejected_logratios: StepColumn, rejected_len: StepColumn, *, normalisation: Normalisation = "average"
) -> StepColumn:
    """Rejected log-ratio (f'(pi / ref) in general), per token ("average") or summed ("sum")."""
    return _normalised(linked_rejected_logratios, rejected_len, normalisation)


@derived
def normalised_margin(normalised_chosen_logratios: StepColumn, normalised_rejected_logratios: StepColumn) -> StepColumn:
    """Chosen minus rejected log-ratio, each side divided by its own length first ("average") or not ("sum")."""
    return normalised_chosen_logratios - normalised_rejected_logratios


def derivation(names: Iterable[str]) -> tuple[Piece, ...]:
    """The derived columns that these names are or build on, in an order in which they can be computed."""
    found: dict[str, Piece] = {}
    for name in names:
        if name in PIECES["derived"]:
            piece = PIECES["derived"][name]
            found |= {earlier.name: earlier for earlier in derivation(piece.columns)}
            found[name] = piece
    return tuple(found.values())


def bases(names: Iterable[str]) -> frozenset[str]:
    """The columns, not derived themselves, that these names are or build on."""
    names = tuple(names)
    needed = {*names, *(column for piece in derivation(names) for column in piece.columns)}
    return frozenset(needed - set(PIECES["derived"]))
