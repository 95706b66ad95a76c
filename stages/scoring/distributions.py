"""What is kept of next-token distributions: the columns of a layer, and how far they are off where they approximate."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from scoreonce.pipeline.head.int8_states import quantised, restored
from scoreonce.stages.config import Score

if TYPE_CHECKING:
    from torch import Tensor

    from scoreonce.stages.scoring.model_scorer import ModelScorer

Errors = dict[str, float | int]  # of a shard, as they stand in the provenance


class Kept(NamedTuple):
    """Columns (tokens, ...) of a layer on the CPU, and their errors where these were asked for."""

    columns: dict[str, Tensor]
    errors: Errors | None = None


def kept_of(score: Score, scorer: ModelScorer, hidden: Tensor, targets: Tensor, *, measure: bool) -> Kept:
    """What `score` keeps of the hidden states (tokens, d) that predict `targets` (tokens,).

    Errors of hidden states are in nats per token: kl_mean and kl_max of KL(exact || kept), logps_max of the targets'
    log-probs. Of the largest log-probs they are the mass that is left to the tail, tail_mean and tail_max.
    """
    if score.full_vocab == "topk":
        top = scorer.top_k(hidden, score.topk)
        return Kept(top._asdict(), _errors("tail", top.tail.float().exp()) if measure else None)
    if score.hidden == "exact":
        return Kept({"hidden": hidden})
    states = quantised(hidden)
    errors = None
    if measure:
        found = scorer.state_error(hidden, restored(states, hidden.dtype), targets)
        errors = {**_errors("kl", found.kl), "logps_max": float(found.logps.abs().max())}
    return Kept({"codes": states.codes, "scales": states.scales}, errors)


def error_text(form: str, errors: Errors) -> str:
    """The line that `score` prints of the first shard."""
    if "tail_mean" in errors:
        mass = f"the tail has a mass of {errors['tail_mean']:.1e} on average, {errors['tail_max']:.1e} at most"
        return f"{form} is approximate: over the first shard, {mass}; a KL lacks what differs within the tail"
    kl = f"mean {errors['kl_mean']:.1e}, largest {errors['kl_max']:.1e} nats"
    return f"{form} is approximate: KL per token over the first shard: {kl}"


def _errors(name: str, values: Tensor) -> Errors:
    return {"tokens": len(values), f"{name}_mean": float(values.double().mean()), f"{name}_max": float(values.max())}
