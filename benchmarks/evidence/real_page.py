"""The generated part of docs/evidence.md on real text, from the held-out pairs of the trainings that are kept."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt
import page
import polars as pl
from drawn import save
from kept import latest
from over_pairs import ERROR, accuracy, difference

from scoreonce.pipeline.evaluation.held_out import win_scores
from scoreonce.pipeline.evaluation.intervals import Interval

START = "<!-- made by benchmarks/evidence/real_text.py -->\n"
TITLES = {"hh": "HH-RLHF: human judgements", "alpaca": "AlpacaEval: judgements of a model"}
SPLITS = ("validation", "test")
NAME, BASE = "SmolLM2-135M-Instruct", "dpo"
PAIRS, SEEDS = 256, 2
MODEL = f"{NAME}, {PAIRS} pairs"
COMPARED = tomllib.loads(Path(__file__).with_name("real_text.toml").read_text(encoding="utf-8"))["compare"]
RATES = COMPARED["vary"]["train.learning_rate"]
PLANNED = len(COMPARED["methods"]) * len(RATES) * SEEDS
KEYS = ("method", "rate", "seed")


def write() -> None:
    """The page's part, and its figures."""
    page.replace(page.PAGE, START, generated())
    for source in TITLES:
        if (table := finished(source)) is not None:
            draw(figures(table), page.ROOT / "docs" / "evidence" / f"real_{source}.svg")


def generated() -> str:
    """A section for each source, from the tables on disk."""
    lines: list[str] = []
    for source in TITLES:
        table = finished(source)
        lines += _unfinished(source) if table is None else section(source, table)
        lines.append("")
    return "\n".join(lines)


def finished(source: str) -> pl.DataFrame | None:
    """The trainings on a source, if all of them are done."""
    table = latest(page.TABLES / f"real_{source}.parquet", MODEL)
    return table if table is not None and len(table.select(KEYS).unique()) >= PLANNED else None


def _unfinished(source: str) -> list[str]:
    table = latest(page.TABLES / f"real_{source}.parquet", MODEL)
    done = 0 if table is None else len(table.select(KEYS).unique())
    return [f"### {TITLES[source]}", "", f"Not finished: {done} of {PLANNED} trainings are done. `{command(source)}`"]


def command(source: str) -> str:
    """What trains and reports."""
    return f"python benchmarks/evidence/real_text.py {source}"


def figures(pairs: pl.DataFrame) -> pl.DataFrame:
    """A row per training: `accuracy`, and `increase` of cross-entropy (nats per token) over the reference, by split."""
    tokens = pl.col("chosen_len") + pl.col("rejected_len")
    increase = -(pl.col("chosen_logratios") + pl.col("rejected_logratios")).sum() / tokens.sum()
    each = (
        win_scores(pairs)
        .group_by(*KEYS, "split", maintain_order=True)
        .agg(pl.col("accuracy").mean(), increase=increase, pairs=pl.len())
    )
    return each.pivot("split", index=[*KEYS], values=["accuracy", "increase", "pairs"])


def chosen(each: pl.DataFrame) -> pl.DataFrame:
    """The trainings of each method at the rate with the best validation accuracy, a mean over seeds."""
    means = each.group_by("method", "rate", maintain_order=True).agg(pl.col("accuracy_validation").mean().alias("mean"))
    best = means.sort("mean", "rate", descending=[True, False]).group_by("method", maintain_order=True).first()
    return each.join(best.drop("mean"), on=["method", "rate"], how="semi")


def tested(pairs: pl.DataFrame, own: pl.DataFrame) -> dict[str, list[pl.DataFrame]]:
    """The test pairs of each method's trainings, a table for each seed."""
    found = pairs.filter(pl.col("split") == "test").join(own, on=[*KEYS], how="semi")
    by_method = found.group_by("method", maintain_order=True)
    return {str(method): part.partition_by("seed") for (method,), part in by_method}


def against(tables: Mapping[str, Sequence[pl.DataFrame]]) -> dict[str, Interval]:
    """Test accuracy of each method minus DPO's, over the same pairs; the intervals hold together (Bonferroni)."""
    others = [method for method in tables if method != BASE]
    return {method: difference(tables[method], tables[BASE], ERROR / len(others)) for method in others}


def section(source: str, pairs: pl.DataFrame) -> list[str]:
    """The page's part on one source."""
    each = figures(pairs)
    own = chosen(each)
    spent = pairs.group_by(KEYS).agg(pl.col("seconds").first())["seconds"].sum()
    lines = [
        f"### {TITLES[source]}",
        "",
        f"{pairs['model'][0]}, one epoch, {each['seed'].n_unique()} seeds; {each['pairs_validation'][0]:,} validation "
        f"pairs, {each['pairs_test'][0]:,} test pairs. {len(each)} trainings, {spent / 60:.0f} minutes of training on "
        f"{', '.join(pairs['machine'].unique().sort())}. `{command(source)}`",
        "",
        f"![Test accuracy and increase of cross-entropy of every training](evidence/real_{source}.svg)",
        "",
        "| method | rate | test accuracy | − DPO, points | increase of cross-entropy, nats per token | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    tables = tested(pairs, own)
    gaps = against(tables)
    for (method,), rows in own.group_by("method", maintain_order=True):
        gap, right = gaps.get(str(method)), accuracy(tables[str(method)])
        found = "" if gap is None else points(gap)
        verdict = "" if gap is None else "better" if gap.low > 0 else "worse" if gap.high < 0 else "cannot be told here"
        lines.append(
            f"| `{method}` | {rows['rate'][0]:g} | {right.mean:.1%} ({right.low:.1%} to {right.high:.1%}) | {found} | "
            f"{rows['increase_test'].mean():+.3f} | {verdict} |"
        )
    return lines


def draw(each: pl.DataFrame, path: Path) -> None:
    """Write the figure: every training a dot, of its method's colour and its rate's shape."""
    chart = (
        alt.Chart(each.with_columns(rate=pl.col("rate").map_elements("{:g}".format, pl.String)))
        .mark_point(filled=True, size=70, opacity=0.7)
        .encode(
            x=alt.X("increase_test:Q", title="increase of cross-entropy, nats per token"),
            y=alt.Y("accuracy_test:Q", title="test accuracy").axis(format="%").scale(zero=False),
            color=alt.Color("method:N", title=None, sort=None),
            shape=alt.Shape("rate:N", title="learning rate", sort=None),
        )
        .properties(width=420, height=300)
    )
    save(chart, path)


def points(gap: Interval) -> str:
    """A difference in percentage points, with its interval."""
    return f"{100 * gap.mean:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
