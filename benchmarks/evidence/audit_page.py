"""The generated part of docs/evidence-audit.md: whether cleaning by a finding helped, from the table of trainings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import altair as alt
import page
import polars as pl
from drawn import dots, save
from paired import ERROR, Comparison, adjusted, difference, verdict
from plants import PLANTS, Plant

PAGE = page.ROOT / "docs" / "evidence-audit.md"
TABLE = page.TABLES / "audit_helps.parquet"
FIGURE = page.ROOT / "docs" / "evidence" / "audit_helps.svg"
START = "<!-- made by benchmarks/evidence/audit_helps.py -->\n"
MEASURES = {"test_reward": "true reward", "accuracy": "held-out accuracy"}
SAID = {"held": "helps", "not held": "does not help", "cannot be told here": "cannot be told here"}


def write(rows: pl.DataFrame) -> None:
    """The table, the figure, and the page's generated part."""
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(TABLE)
    draw(rows, FIGURE)
    page.replace(PAGE, START, generated(rows))


def compared(rows: pl.DataFrame, plant: str, measure: str) -> list[Comparison]:
    """What decides whether cleaning helps: the audit's against no cleaning, and against as many pairs at random."""
    own = rows.filter(pl.col("plant") == plant)
    return [
        difference(own, "audit", other, measure, f"{MEASURES[measure]}, audit − {other}") for other in ("all", "random")
    ]


def cost(rows: pl.DataFrame, plant: str, measure: str) -> Comparison:
    """What the flaw costs: training without it against training with it."""
    own = rows.filter(pl.col("plant").is_in([plant, "clean"]))
    return difference(own, "clean", "all", measure, f"{MEASURES[measure]}, without the flaw − all")


def generated(rows: pl.DataFrame) -> str:
    """What each finding did, then the differences behind it."""
    reward, right = MEASURES
    lines = [
        "| planted | cleaned by | planted pairs found | dropped that are right | what the flaw costs, reward | "
        "helps reward? | helps accuracy? |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, plant in PLANTS.items():
        flaw = cost(rows, name, reward).interval
        verdicts = " | ".join(SAID[verdict(compared(rows, name, measure))] for measure in (reward, right))
        found = f"{_found(rows, name)} | {flaw.mean:+.2f} ({flaw.low:+.2f} to {flaw.high:+.2f})"
        lines.append(f"| {plant.title} | {_finding(plant)} | {found} | {verdicts} |")
    minutes = rows["cpu_seconds"].sum() / 60
    said = f"{rows['seed'].n_unique()} seeds, {len(rows)} trainings, {minutes:.0f} minutes of one core"
    lines += ["", f"{said}. `python benchmarks/evidence/audit_helps.py`", ""]
    lines += ["![True reward and held-out accuracy of every training](evidence/audit_helps.svg)"]
    for name, plant in PLANTS.items():
        lines += ["", *_section(name, plant, rows)]
    return "\n".join([*lines, ""])


def _section(name: str, plant: Plant, rows: pl.DataFrame) -> list[str]:
    own = rows.filter(pl.col("plant") == name)
    means = ", ".join(
        f"{arm} {own.filter(pl.col('arm') == arm)['test_reward'].mean():.2f}" for arm in ("all", "audit", "random")
    )
    lines = [
        f"## {name}",
        "",
        f"{plant.title[0].upper()}{plant.title[1:]}; cleaned by {_finding(plant)}. Mean true reward: {means}, without "
        f"the flaw {rows.filter(pl.col('arm') == 'clean')['test_reward'].mean():.2f}; the reference "
        f"{rows['reference_reward'][0]:.2f}.",
        "",
        "| difference | mean | 95 % interval | p (Holm) | seeds to tell |",
        "| --- | --- | --- | --- | --- |",
    ]
    for measure in MEASURES:
        decide = compared(rows, name, measure)
        shown = [cost(rows, name, measure), *decide]
        for each, p in zip(shown, [shown[0].p, *adjusted(decide)], strict=True):
            interval = each.interval
            needed = f"{each.seeds_to_tell:,}" if p >= ERROR and each.seeds_to_tell else ""
            lines.append(
                f"| {each.says} | {interval.mean:+.3f} | {interval.low:+.3f} to {interval.high:+.3f} | {p:.2g} | "
                f"{needed} |"
            )
    return lines


def _finding(plant: Plant) -> str:
    return f"`{plant.finding}`" if "none" not in plant.finding else plant.finding


def _found(rows: pl.DataFrame, name: str) -> str:
    """Shares over all seeds: of planted pairs that are dropped, and of dropped pairs that are not planted."""
    own = rows.filter((pl.col("plant") == name) & (pl.col("arm") == "audit"))
    flagged, planted, both = (int(own[each].sum()) for each in ("flagged", "planted", "planted_flagged"))
    if not planted:
        return f"{flagged / own['pairs'].sum():.0%} of all pairs | "
    return f"{both / planted:.0%} | {1 - both / flagged:.0%} of {flagged // len(own)}" if flagged else "0% | none"


def draw(rows: pl.DataFrame, path: Path, measures: Mapping[str, str] = MEASURES) -> None:
    """Write the figure: every training a dot, a row per plant, a column per measure."""
    clean = rows.filter(pl.col("arm") == "clean")
    charts = []
    for name in PLANTS:
        shown = pl.concat([clean, rows.filter(pl.col("plant") == name)])
        arms = alt.Y("arm:N", title=name, sort=["clean", "all", "audit", "random"])
        for measure, title in measures.items():
            charts.append(dots(shown, measure, title, arms, rows).properties(width=320, height=110))
    save(alt.concat(*charts, columns=2), path)
