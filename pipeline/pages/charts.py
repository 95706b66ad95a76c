"""The chart kit of every page: the `Chart` record, colours, axes and fonts, and a chart drawn as SVG.

A chart is a Vega-Lite specification made with altair. The report embeds its specifications and draws them by script,
which fits them to the window and shows values under the pointer. The audit page has to work without script, so its
charts are drawn here, by `svg`. Colours are CSS variables, so that one drawing serves light, dark and print.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import vl_convert
from markupsafe import Markup

from scoreonce.pipeline.evaluation.intervals import CHANCE
from scoreonce.pipeline.pages.numbers import is_number

PALETTE = 8
TEXT = 11  # the smallest text in a chart, CSS pixels
# Stands for the data of a chart until `specification` adds them.
ROWS = alt.NamedData("rows")
# A figure's size in CSS pixels where no script fits it to its column: the least width that the style sheet gives it, so
# that its text is never drawn smaller than it is.
FIGURE_WIDTH, STRIP_WIDTH, STRIP_HEIGHT, STRIP_MARGIN = 356, 240, 34, 10
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
_AXIS = {
    "labelColor": "var(--ink-2)",
    "titleColor": "var(--ink-2)",
    "gridColor": "var(--line)",
    "domainColor": "var(--line)",
    "tickColor": "var(--line)",
    "labelFontSize": TEXT,
    "titleFontSize": TEXT,
    "titleFontWeight": "normal",
    "labelPadding": 4,
}
_DESCRIBED = re.compile(r'<path aria-label="([^"<]*)" role="[^"]*" aria-roledescription="[^"]*"([^<>]*)/>')


@dataclass(frozen=True)
class Chart:
    """A figure: a name that is unique on its page, heading, one sentence on what it shows, and what to draw."""

    name: str
    title: str
    caption: str
    spec: dict[str, Any]
    detail: str = ""  # beside the title: the unit, or how many pairs
    legend: tuple[tuple[str, str], ...] = ()  # label and colour of each series


def color(index: int) -> str:
    """The CSS colour of a run or series; colours repeat after `PALETTE`."""
    return f"var(--run-{index % PALETTE})"


def values(rows: Iterable[Mapping[str, Any]]) -> alt.Data:
    """Rows as the data of one layer, with null for NaN and infinity, which JSON cannot hold."""
    return alt.Data(values=_finite(rows))


def _finite(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: None if isinstance(value, float) and not is_number(value) else value for key, value in row.items()}
        for row in rows
    ]


def specification(
    chart: alt.Chart | alt.LayerChart,
    rows: Iterable[Mapping[str, Any]],
    *,
    height: int,
    width: int | Literal["container"] = "container",
) -> dict[str, Any]:
    """The chart in the pages' style; `rows` are the data of its layers that were made with `ROWS`.

    `width` includes axes and padding, `height` is that of the plot, both in CSS pixels; `container` leaves the width
    to the script.
    """
    sized = chart.properties(width=width, height=height, padding={"left": 2, "right": 8, "top": 6, "bottom": 2})
    styled = sized.configure(
        background="transparent",
        font=_FONT,
        axis=_AXIS,
        view={"stroke": None},
        autosize={"type": "fit-x", "contains": "padding"},
    )
    # altair copies a chart, its data included, at every step, and would validate each of the copies: both would take
    # longer than drawing. So the data are added at the end, and a test validates what the pages draw.
    spec: dict[str, Any] = styled.to_dict(validate=False) | {"datasets": {ROWS.name: _finite(rows)}}
    # The schema's address would be the page's only one that leads outside.
    del spec["$schema"]
    return spec


def interval_strip(
    domain: tuple[float, float],
    interval: tuple[float, float, float] | None,
    paint: str,
    points: Iterable[tuple[float, str]] = (),
    level: float | None = CHANCE,
) -> dict[str, Any]:
    """A value with its interval (low, value, high) as a dot on a bar, without axis; an upright line marks `level`.

    `points` are further values, drawn small, with their words.
    """
    x = _strip_x("at:Q", domain)
    whole = alt.Chart(ROWS)
    small = alt.Chart(values({"at": at, "words": words} for at, words in points))
    layers = alt.layer(
        alt.Chart(values([] if level is None else [{"at": level}]))
        .mark_rule(color="var(--ink-3)", aria=False)
        .encode(x=x),
        whole.mark_rule(strokeWidth=4, opacity=0.4, color=paint, aria=False).encode(
            x=_strip_x("low:Q", domain), x2="high:Q"
        ),
        small.mark_point(filled=True, size=36, opacity=0.45, color="var(--ink-3)").encode(x=x, description="words:N"),
        whole.mark_point(filled=True, size=90, opacity=1, color=paint, aria=False).encode(x=x),
    )
    rows = [dict(zip(("low", "at", "high"), interval, strict=True))] if interval else []
    return _strip(layers, rows, height=STRIP_HEIGHT, above=0)


def strip_axis(domain: tuple[float, float], form: str = ".2~f") -> dict[str, Any]:
    """The axis above strips of the same domain; `form` is how its numbers are written, as d3 does."""
    axis = alt.Axis(orient="top", title=None, grid=False, domain=False, ticks=False, tickCount=4, format=form)
    invisible = alt.Chart(ROWS).mark_point(opacity=0, aria=False).encode(x=_strip_x("at:Q", domain, axis))
    return _strip(invisible, [{"at": domain[0]}], height=1, above=20)


def _strip(
    chart: alt.Chart | alt.LayerChart, rows: Iterable[Mapping[str, Any]], *, height: int, above: int
) -> dict[str, Any]:
    """Without fitting, which would make room for a dot on the edge, and so move it against those of other strips."""
    padding = {"left": STRIP_MARGIN, "right": STRIP_MARGIN, "top": above, "bottom": 0}
    fixed = {
        "autosize": {"type": "none", "contains": "content"},
        "padding": padding,
        "width": STRIP_WIDTH - 2 * STRIP_MARGIN,
    }
    return specification(chart, rows, height=height) | fixed


def _strip_x(field: str, domain: tuple[float, float], axis: alt.Axis | None = None) -> alt.X:
    return alt.X(field, axis=axis, scale=alt.Scale(domain=list(domain), zero=False, nice=False))


def svg(spec: Mapping[str, Any]) -> Markup:
    """The chart as an SVG element. A mark's description becomes its title: its name, and what the pointer shows."""
    drawn = vl_convert.vegalite_to_svg(dict(spec), allowed_base_urls=[])
    return Markup(_DESCRIBED.sub(r"<path\2><title>\1</title></path>", drawn))
