"""Repeated judgements of the same pair: how often they disagree, and how noisy a label is.

They come as rows (the same two completions several times, in either order) or as votes in a column of the raw data.
If every judgement is wrong independently with the same probability ε, two of them disagree with probability
d = 2 ε (1 − ε), so ε = (1 − √(1 − 2 d)) / 2. Judges who share a bias agree without being right: then ε is too low.
None of this can be estimated from margins, and it is never applied automatically.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import polars as pl

from scoreonce.pipeline.audit.checks.check import Check
from scoreonce.pipeline.evaluation.intervals import wilson

LEAST_PAIRS = 2


@dataclass(frozen=True)
class Ballot:
    """The encoding of a vote: the number `first` for the first response (or the chosen side), `second` for the other.

    A vote between the two counts for the nearer one; halfway, outside both, or not a number, it is a tie.
    """

    first: float
    second: float

    def count(self, votes: Any) -> tuple[int, int]:
        """Votes for the first and for the second, from a list or from an object by judge."""
        values = list(votes.values()) if isinstance(votes, dict) else votes if isinstance(votes, list) else [votes]
        places = [
            (value - self.first) / (self.second - self.first)
            for value in values
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        return sum(0 <= place < 0.5 for place in places), sum(0.5 < place <= 1 for place in places)


VOTE_CHECKS = (
    Check(
        "judges_disagree",
        "flag",
        "Judges disagree",
        "The votes on this pair are not all for the same side: its label is less certain than others.",
        (pl.col("votes_chosen") > 0) & (pl.col("votes_rejected") > 0),
        note=pl.format("{} for chosen, {} for rejected", "votes_chosen", "votes_rejected"),
    ),
    Check(
        "majority_against_label",
        "flag",
        "Most judges prefer the rejected side",
        "More votes are for the rejected side than for the chosen one.",
        pl.col("votes_rejected") > pl.col("votes_chosen"),
        note=pl.format("{} for chosen, {} for rejected", "votes_chosen", "votes_rejected"),
    ),
)


def votes_by_row(votes: pl.DataFrame) -> pl.DataFrame:
    """`first` and `second`, the judgements for either side, of each row with a vote that is not a tie."""
    voted = votes.filter(pl.col("votes_chosen") + pl.col("votes_rejected") > 0)
    return voted.select(first=pl.col("votes_chosen").cast(pl.Int64), second=pl.col("votes_rejected").cast(pl.Int64))


def rows_by_pair(pairs: pl.LazyFrame) -> pl.DataFrame:
    """The same for every two completions that several rows compare; copies count as judgements that agree."""
    pairs = pairs.filter(pl.col("chosen_id").is_not_null() & pl.col("rejected_id").is_not_null())
    in_order = pl.col("chosen_id") < pl.col("rejected_id")
    several = pairs.filter((pl.col("copies") > 1) | pl.col("opposite_pair_id").is_not_null())
    lower, higher = pl.min_horizontal("chosen_id", "rejected_id"), pl.max_horizontal("chosen_id", "rejected_id")
    counts = {"first": in_order.sum().cast(pl.Int64), "second": (~in_order).sum().cast(pl.Int64)}
    return several.group_by(a=lower, b=higher).agg(**counts).drop("a", "b").collect(engine="streaming")


def judgements(pairs: pl.LazyFrame, votes: pl.DataFrame | None = None) -> dict[str, Any] | None:
    """Disagreement and flip rate with 95 % intervals; None with fewer than two pairs that were judged repeatedly.

    `votes` has votes_chosen and votes_rejected of every raw row; without it, rows are the judgements.

    `disagreement`: mean over pairs of the share of pairs of judgements that differ. `flip_rate`: ε of one judgement.
    `suggested_label_smoothing`: the probability that a label is wrong, ε for single judgements, for a majority of k
    votes that of its majority being wrong, averaged over pairs.
    """
    table = rows_by_pair(pairs) if votes is None else votes_by_row(votes)
    total = pl.col("first") + pl.col("second")
    counted = (
        table.filter(total >= 2)
        .with_columns(total=total)
        .with_columns(differ=2 * pl.col("first") * pl.col("second") / (pl.col("total") * (pl.col("total") - 1)))
    )
    if counted.height < LEAST_PAIRS:
        return None
    # Wilson's interval is conservative here: a pair's own share of disagreement may lie between 0 and 1.
    share = pl.col("differ").mean()
    low, high = wilson(share, pl.len())
    mean, low, high = counted.select(mean=share, low=low, high=high).row(0)
    rates = [flip_rate(value) for value in (mean, low, high)]
    sizes = table["first"] + table["second"]
    return {
        "kind": "rows" if votes is None else "votes",
        "pairs": counted.height,
        "judgements": int(counted["total"].sum()),
        "dissent": counted.filter((pl.col("first") > 0) & (pl.col("second") > 0)).height,
        "disagreement": mean,
        "disagreement_low": low,
        "disagreement_high": high,
        "flip_rate": rates[0],
        "flip_rate_low": rates[1],
        "flip_rate_high": rates[2],
        "suggested_label_smoothing": rates[0] if votes is None else _majority_error(rates[0], sizes),
    }


def flip_rate(disagreement: float) -> float:
    """ε = (1 − √(1 − 2 d)) / 2, one half from d = ½ on: more disagreement than chance has no ε."""
    return (1 - math.sqrt(max(1 - 2 * disagreement, 0.0))) / 2


def _majority_error(rate: float, sizes: pl.Series) -> float:
    """Mean probability that the majority of so many votes is wrong; a tie is wrong half of the time."""
    counts = sizes.value_counts()
    errors = [_wrong(rate, votes) * count for votes, count in counts.iter_rows()]
    return sum(errors) / max(sizes.len(), 1)


def _wrong(rate: float, votes: int) -> float:
    def exactly(wrong: int) -> float:
        return math.comb(votes, wrong) * rate**wrong * (1 - rate) ** (votes - wrong)

    lost = sum(exactly(wrong) for wrong in range(votes + 1) if 2 * wrong > votes)
    return lost + (0.5 * exactly(votes // 2) if votes % 2 == 0 else 0.0)
