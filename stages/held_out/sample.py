"""The fixed sample of held-out pairs: the same pairs at every evaluation, in every run on the same data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.methods import Method
from scoreonce.schemas import margins
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.held_out.settings import SIDES, imitates

Numbers = npt.NDArray[np.float64]


class HeldOutPairs(Protocol):
    """All held-out pairs: `columns` are the cached ones, each (pairs,); `row` gives a pair's token ids."""

    @property
    def columns(self) -> Mapping[str, Numbers]: ...  # noqa: D102
    def row(self, pair: int) -> PromptRow: ...  # noqa: D102


@dataclass(frozen=True)
class Sample:
    """Some distinct held-out pairs, in the order of their file."""

    pairs: pl.DataFrame  # the columns of EvaluationPair that are not the policy's; null without that completion
    rows: tuple[PromptRow, ...]
    columns: Mapping[str, Numbers]  # what is cached of them, each (pairs,)
    of: int  # distinct held-out pairs from which they were drawn

    @classmethod
    def draw(cls, run: Run, method: Method, data: HeldOutPairs) -> Sample:
        """At most `evaluate.pairs` pairs, drawn by `data.seed`; for a method that imitates, with a chosen side each.

        Raises `InputError` where there is no such pair, and where the metric that decides is not known of any.
        """
        paths = RunPaths.of(run)
        names = ["pair_id", "source", "chosen_len", "rejected_len"]
        places = read_frame(paths.pairs("test"), names).with_row_index("place")
        distinct = places.unique("pair_id", keep="first", maintain_order=True)
        if imitates(method):
            distinct = distinct.filter(pl.col("chosen_len") > 0)
        drawn = np.sort(np.random.default_rng(run.data.seed).permutation(distinct.height)[: run.evaluate.pairs])
        pairs = distinct[drawn]
        at = pairs["place"].cast(pl.Int64).to_numpy()
        columns = {name: values[at] for name, values in data.columns.items()}
        reference = [pl.Series(f"ref_{side}_logps", columns[f"ref_{side}_logps"]) for side in SIDES]
        made = cls(
            pairs.drop("place").with_columns(reference).pipe(_without_absent, "ref_{}_logps"),
            tuple(data.row(int(place)) for place in at),
            columns,
            distinct.height,
        )
        made._require_metric(run)
        return made

    def __len__(self) -> int:
        return len(self.rows)

    def table(self, policy: Mapping[str, Numbers]) -> pl.DataFrame:
        """The pairs as rows of `EvaluationPair`, with the policy's columns, each (pairs,), beside them."""
        frame = self.pairs.with_columns(pl.Series(name, values) for name, values in policy.items())
        for kind in ("logps", "entropy"):
            frame = _without_absent(frame, f"policy_{{}}_{kind}")
        return frame.with_columns(**margins.differences())

    def _require_metric(self, run: Run) -> None:
        there = {side: self.pairs[f"{side}_len"] > 0 for side in SIDES}
        if not len(self):
            raise InputError(
                "There is no held-out pair for figures while training.",
                found="no held-out pair with a chosen completion",
                where=str(RunPaths.of(run).pairs("test")),
                fix="Hold out more: raise data.test_share and prepare again. Or leave evaluate.every out.",
            )
        compares = there["chosen"].any() and there["rejected"].any()
        if run.evaluate.decides and run.evaluate.metric != "loss" and not compares:
            raise InputError(
                f"Held-out {run.evaluate.metric} compares two kinds of completions, and there is one.",
                found=f"evaluate.metric = {run.evaluate.metric!r}, and {len(self):,} held-out completions of one kind",
                where="evaluate.metric",
                fix='Set evaluate.metric = "loss".',
            )


def _without_absent(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """The frame with null in both sides' columns of that name where there is no completion."""
    there = {name.format(side): pl.col(f"{side}_len") > 0 for side in SIDES}
    return frame.with_columns(pl.when(has).then(column).alias(column) for column, has in there.items())
