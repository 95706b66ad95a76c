"""What the figures share: each training a dot, and how a chart becomes an SVG."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import polars as pl
import vl_convert


def dots(rows: pl.DataFrame, measure: str, title: str, arms: alt.Y, of: pl.DataFrame | None = None) -> alt.LayerChart:
    """Every training a dot, with a tick at each arm's mean. The axis spans all trainings of `of`, for charts beside."""
    scale = alt.Scale(zero=False)
    if of is not None:
        scale = alt.Scale(zero=False, domain=[of[measure].min(), of[measure].max()])
    base = alt.Chart(rows.select("arm", measure)).encode(y=arms)
    points = base.mark_circle(opacity=0.45).encode(x=alt.X(f"{measure}:Q", title=title, scale=scale))
    ticks = base.mark_tick(thickness=3, height=16).encode(x=alt.X(f"mean({measure}):Q", title=title))
    return alt.layer(points, ticks)


def save(chart: alt.TopLevelMixin, path: Path) -> None:
    """Write the figure, on white so that a dark page shows it."""
    spec = chart.configure(background="white", font="sans-serif").to_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]) + "\n", encoding="utf-8")
