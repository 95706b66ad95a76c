"""From the answers of the measured processes to figures: medians over rounds, ratios, and FLOP/s."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from flops import Needs, Shape, total

from compared.profiles import TokenPair

SIDES = ("default", "trl", "ours")  # TRL as it comes, TRL with the micro-batch that suits it best, scoreonce
Round = Mapping[str, Mapping[str, Any]]  # "trl score", "ours train" and so on -> its answer


def gaps(ends: Sequence[float]) -> list[float]:
    """Seconds between the ends of consecutive steps: all of a step, its data and logging too."""
    return [later - earlier for earlier, later in zip(ends, ends[1:], strict=False)]


def losses_apart(answers: Round) -> float:
    """The largest difference between our losses of a step and TRL's."""
    ours = answers["ours train"]["losses"]
    return max(
        abs(left - right)
        for side in ("default", "trl")
        for left, right in zip(answers[f"{side} train"]["losses"], ours, strict=True)
    )


def needs(pairs: Sequence[TokenPair]) -> dict[str, Needs]:
    """What each side's layout has to compute: a prompt once per pair, or once per completion."""
    repeated = total(pair.lengths.repeated() for pair in pairs)
    return {
        "default": repeated,
        "trl": repeated,
        "ours": total(pair.lengths.shared() for pair in pairs),
    }


def compared(rounds: Sequence[Round], pairs: Sequence[TokenPair], batch: int, shape: Shape) -> dict[str, Any]:
    """Medians over rounds of pairs/s, memory and start-up, their ratios, and the FLOP/s that each stage needed."""
    rates = {
        name: [r[name]["pairs"] / r[name]["seconds"] for r in rounds] for name in (f"{side} score" for side in SIDES)
    }
    for name in (f"{side} train" for side in SIDES):
        rates[name] = [batch / gap for r in rounds for gap in gaps(r[name]["step ends, s"])]
    medians = {name: statistics.median(values) for name, values in rates.items()}
    memory = {name: statistics.median(r[name]["peak, bytes"] for r in rounds) for name in rates}
    costs = _costs(pairs, shape)
    return {
        "pairs": len(pairs),
        "batch": batch,
        "tokens of a pair": {side: need.positions / len(pairs) for side, need in needs(pairs).items()},
        "pairs/s": medians,
        "pairs/s, all": rates,
        "peak, bytes": memory,
        "ratio": {
            f"{stage} to {side}{of}": figure[f"ours {stage}"] / figure[f"{side} {stage}"]
            for stage in ("score", "train")
            for side in ("default", "trl")
            for of, figure in (("", medians), (", memory", memory))
        },
        "start to first step, s": {
            side: statistics.median(r[f"{side} train"]["step ends, s"][0] for r in rounds) for side in SIDES
        },
        "TRL's reference passes in training": max(r["trl train"]["passes"] for r in rounds),
        "FLOP of a pair": costs,
        "FLOP/s": {name: costs[name] * rate for name, rate in medians.items()},
        "losses apart": max(map(losses_apart, rounds)),
    }


def inside(answer: Mapping[str, Any], pairs: Sequence[TokenPair], shape: Shape) -> dict[str, Any]:
    """Seconds, tokens/s and FLOP/s of each phase of our step, and the step's ratio to a plain SFT step."""
    need = needs(pairs)["ours"]
    cost = {"forward, body": need.body(shape), "forward, head": need.head(shape)}
    cost |= {name.replace("forward", "backward"): 2 * flops for name, flops in cost.items()}
    return {
        "layout": answer["layout"],
        "phases": {
            name: {
                "seconds": seconds,
                "tokens/s": answer["tokens"] / seconds,
                "FLOP/s": cost[name] / seconds if name in cost else None,
            }
            for name, seconds in answer["phases, s"].items()
        },
        "DPO step over SFT step": answer["DPO step, s"] / answer["SFT step, s"],
    }


def _costs(pairs: Sequence[TokenPair], shape: Shape) -> dict[str, float]:
    found = {}
    for side, need in needs(pairs).items():
        found[f"{side} score"] = need.forward(shape) / len(pairs)
        found[f"{side} train"] = need.training(shape) / len(pairs)
    return found
