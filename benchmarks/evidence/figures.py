"""A figure for each claim, as SVG: every training a faint dot, the means over seeds in full colour."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import polars as pl
from drawn import dots, save
from paired import chosen

KL = "KL from the reference, nats"
TEN = 10
DOTS = ("alpha_margin", "beta_outliers")


def draw(name: str, rows: pl.DataFrame, reference: float, path: Path) -> None:
    """Write the figure of a claim; a dashed line is the reference's reward."""
    best = chosen(rows)
    if name == "beta_gap":
        charts = [_lines(rows, alt.X("beta:Q", title="β").scale(type="log"), "part")]
    elif name in ("beta_noise", "known_flips"):
        charts = [_lines(best, alt.X("flips:Q", title="share of flipped labels").axis(format="%"), "arm")]
    elif name in ("learning_rates", "sft_deviation"):
        rate = alt.X("learning_rate:Q", title="learning rate").scale(type="log")
        charts = [_lines(rows, rate, "arm"), _lines(rows, rate, "arm", "test_kl", KL)]
    elif name in DOTS:
        named = rows["part"].n_unique() > 1
        charts = [
            dots(own, "test_reward", "true reward", alt.Y("arm:N", title=part if named else None, sort=None))
            for part, own in _parts(best)
        ]
    else:
        charts = [_frontiers(rows)]
    rewards = charts if name in DOTS else charts[:1]  # the second one is of KL
    lined = [_with_reference(each, reference, "x" if name in DOTS else "y") for each in rewards]
    sized = [each.properties(width=380, height=280) for each in (*lined, *charts[len(rewards) :])]
    save(alt.hconcat(*sized), path)


def _with_reference(chart: alt.LayerChart, reference: float, axis: str = "y") -> alt.LayerChart:
    """The chart with a dashed line at the reference's reward."""
    line = alt.Chart(alt.Data(values=[{"at": reference}])).mark_rule(strokeDash=[4, 3], color="gray")
    return alt.layer(chart, line.encode(**{axis: "at:Q"}))


def _lines(
    rows: pl.DataFrame, x: alt.X, colour: str, measure: str = "test_reward", title: str = "true reward"
) -> alt.LayerChart:
    base = alt.Chart(rows).encode(x=x, color=alt.Color(f"{colour}:N", title=None, sort=None))
    y = alt.Y(f"{measure}:Q", title=title).scale(zero=False)
    mean = alt.Y(f"mean({measure}):Q", title=title).scale(zero=False)
    return base.mark_circle(opacity=0.35).encode(y=y) + base.mark_line(point=True).encode(y=mean)


def _parts(rows: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    return [(part, rows.filter(pl.col("part") == part)) for part in rows["part"].unique(maintain_order=True)]


def _frontiers(rows: pl.DataFrame) -> alt.LayerChart:
    colour = alt.Color("arm:N", title=None, sort=None)
    if rows["arm"].n_unique() > TEN:  # as many as the usual colours
        colour = colour.scale(scheme="category20")
    base = alt.Chart(rows).encode(color=colour)
    means = rows.group_by("arm", "candidate", maintain_order=True).agg(pl.col("test_kl", "test_reward").mean())
    x = alt.X("test_kl:Q", title=KL).scale(type="symlog", constant=1)
    y = alt.Y("test_reward:Q", title="true reward").scale(zero=False)
    return base.mark_circle(opacity=0.3).encode(x=x, y=y) + base.mark_line(point=True).encode(x=x, y=y).properties(
        data=means
    )
