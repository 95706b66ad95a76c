"""What a comparison allows to decide, and why; the statistics are those of `pipeline.evaluation.standings`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scoreonce.pipeline.evaluation.intervals import CHANCE
from scoreonce.pipeline.evaluation.standings import Standing, Standings
from scoreonce.pipeline.pages.numbers import percent, signed


@dataclass(frozen=True)
class Decision:
    """The candidate to take, None where the data cannot tell, and why."""

    recommended: str | None
    reason: str


def decision(found: Standings, drift: Mapping[str, float]) -> Decision:
    """Which candidate to take.

    `drift`, by candidate: how far the policy moved from the reference, in nats per held-out token. Of the best and
    those within one standard error of it the one that moved least is taken (the rule of Breiman et al. 1984, with
    drift in the place of complexity). None is where the best is no better than chance.
    """
    best = found.rows[0]
    tied = [row for row in found.rows if row.tied]
    repeated = "" if all(row.seeds > 1 for row in found.rows) else f" {_ONE_SEED}"
    if best.accuracy.low <= CHANCE:
        return Decision(
            None,
            f"The data cannot tell: {best.name} is best with {_rate(best)}, which chance alone would reach, "
            f"over {found.pairs:,} held-out pairs.{repeated}",
        )
    if len(tied) == 1:
        return Decision(best.name, _ahead(best, found) + repeated)
    near = [row for row in tied if row.near]
    least = min(near, key=lambda row: abs(drift[row.name]))
    names = "All" if len(tied) == len(found.rows) else f"{len(tied)} of {len(found.rows)}"
    said = f"{names} candidates are tied: {found.pairs:,} held-out pairs do not tell them apart. "
    if len(near) == 1:
        said += f"{best.name} is ahead, with {_rate(best)}, and no other is within one standard error of it."
    else:
        said += (
            f"Of the {len(near)} within one standard error of the best, {least.name} moved least from the reference, "
            f"{signed(drift[least.name], 3)} nats per token, with {_rate(least)}."
        )
    return Decision(least.name, f"{said}{_pairs_needed(found)}{repeated}")


_ONE_SEED = "With one seed it is unknown how much another would change; --seeds 3 shows it."


def _ahead(best: Standing, found: Standings) -> str:
    said = f"{best.name} is best with {_rate(best)} over {found.pairs:,} held-out pairs"
    if len(found.rows) == 1:
        return f"{said}; there is nothing to compare it with."
    second = found.rows[1]
    assert second.behind is not None
    return (
        f"{said}, {_points(second.behind.mean)} points ahead of {second.name} "
        f"({_points(second.behind.low)} to {_points(second.behind.high)})."
    )


def _pairs_needed(found: Standings) -> str:
    """How many pairs would tell the first two apart, were their difference the true one, and seeds no matter."""
    first, second = found.rows[:2]
    behind = second.behind
    if behind is None or behind.mean <= 0 or first.seeds > 1 or second.seeds > 1:
        return ""
    needed = found.pairs * ((behind.mean - behind.low) / behind.mean) ** 2
    if needed > 1e7:
        return ""
    return f" {needed:,.0f} pairs would tell the first two apart if they differ by {_points(behind.mean)} points."


def _rate(row: Standing) -> str:
    return f"{percent(row.accuracy.mean)} ({percent(row.accuracy.low)} to {percent(row.accuracy.high)})"


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
