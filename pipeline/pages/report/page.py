"""One self-contained HTML page about one or several training runs.

`render` gives the page as a string. Tables hold every number and need no script; the script draws the charts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scoreonce.pipeline.evaluation.summary import RATES
from scoreonce.pipeline.pages import kit
from scoreonce.pipeline.pages.charts import color, svg
from scoreonce.pipeline.pages.downloads import as_csv, of_charts
from scoreonce.pipeline.pages.numbers import size, upper_first
from scoreonce.pipeline.pages.ranking import judge_name
from scoreonce.pipeline.pages.report.charts import accuracy_strips, bands_of, dash, reward_against_kl, training_curves
from scoreonce.pipeline.pages.report.data import ReportData, RunRecord, final_mean
from scoreonce.pipeline.pages.report.frontier import frontier
from scoreonce.pipeline.pages.report.held_out import held_out_curves, held_out_standings
from scoreonce.pipeline.pages.report.lineage import data_facts, quarantine, reference_facts, settings
from scoreonce.pipeline.pages.report.samples import side_by_side, standings
from scoreonce.pipeline.pages.report.verdict import Verdict, behind_text, verdict
from scoreonce.pipeline.pages.report.warnings import run_warnings
from scoreonce.schemas.metrics import PAIRS_PER_SECOND, PEAK_MEMORY, SECONDS, TOKENS_PER_SECOND
from scoreonce.schemas.samples import REFERENCE, policy_label

SAMPLE_PROMPTS = 8
SAMPLE_CHARACTERS = 1200
SOURCES_SHOWN = 25


def render(data: ReportData) -> str:
    """The page, as HTML. `data` needs at least one run."""
    colors = {run.label: color(index) for index, run in enumerate(data.runs)}
    others = [each.label for each in data.samples] + [each.label for each in data.judgements]
    for label in others:  # a realigned policy has the colour of its run
        own = colors.get(policy_label(label))
        colors.setdefault(label, "var(--ink-2)" if label == REFERENCE else own or color(len(colors)))
    marks = {run.label: dash(index) for index, run in enumerate(data.runs)}
    curves, held_out = training_curves(data.runs), held_out_curves(data.runs)
    pace = {run.label: _pace(run) for run in data.runs}
    strip_axis, strips = accuracy_strips(data.runs)
    margins, betas = bands_of(data.runs, "margin"), bands_of(data.runs, "beta")
    scatter = reward_against_kl(data.demo, colors, data.best_of_n) if data.demo else None
    found, edge = verdict(data), frontier(data.samples, data.judgements)
    judged = edge and reward_against_kl(
        edge.entries, colors, edge.best_of_n, name="judge-kl", reward=edge.measure.title, lines=edge.lines
    )
    charts = [
        *curves,
        *held_out,
        *(chart for _, chart in margins + betas),
        *(chart for chart in (scatter, judged) if chart),
    ]
    return (
        kit.environment()
        .get_template("report/report.html.jinja")
        .render(
            data=data,
            title=data.title,
            verdict=found,
            verdicts=[item.run for item in found.standings if item.run.verdict],
            rules=_rules(data.runs),
            warnings=run_warnings(data),
            strip_axis=strip_axis,
            strips=strips,
            svg=svg,
            colors=colors,
            marks=marks,
            curves=curves,
            held_out=held_out,
            held_out_standings=held_out_standings(data.runs),
            margins=margins,
            betas=betas,
            scatter=scatter,
            downloads=[
                as_csv("results.csv", result_rows(found, pace)),
                of_charts("charts.json", charts, {f"r{i}": run.label for i, run in enumerate(data.runs)}),
            ],
            judged=judged,
            judgements=[(each, judge_name(each.judge)) for each in data.judgements],
            upper_first=upper_first,
            size=size,
            specs={chart.name: chart.spec for chart in charts},
            evaluated=[run for run in data.runs if run.evaluated],
            trained=[run for run in data.runs if run.trained],
            rates=RATES,
            sources=_sources(data.runs),
            demo_samples=_samples(data.demo),
            sample_standings=standings(data.samples),
            answered=side_by_side(data.samples),
            pace=pace,
            data_facts=data_facts(data.pairs_manifest),
            quarantine=quarantine(data.pairs_manifest),
            reference_facts=reference_facts(data.reference_manifest),
            settings=settings(data.runs),
            behind=behind_text,
            style=kit.style("charts.css", "texts.css", "report/report.css"),
            **kit.charts_script(),
        )
    )


def _rules(runs: Sequence[RunRecord]) -> list[Mapping[str, Any]]:
    """The rules that hold of some run, each once."""
    found = [finding for run in runs for finding in run.verdict.get("findings", [])]
    return list({finding["name"]: finding for finding in found}.values())


def result_rows(found: Verdict, pace: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table of results, a row per run, and what each cost; shares are not percentages."""
    title = found.measure.column if found.measure else ""
    rows = []
    for item in found.standings:
        grade, summary = item.grade, item.run.summary
        measure = {title: grade.mean, f"{title}_low": grade.low, f"{title}_high": grade.high} if grade else {}
        names = ("accuracy", "accuracy_low", "accuracy_high", "length_controlled_accuracy", "margin")
        figures = {name: summary.get(name) for name in names}
        gap = item.behind or {}
        behind = {"behind": gap.get("difference"), "behind_low": gap.get("low"), "behind_high": gap.get("high")}
        rows.append({"run": item.run.label, "tied": item.tied, **measure, **figures, **behind, **pace[item.run.label]})
    return rows


def _pace(run: RunRecord) -> Mapping[str, Any]:
    names = run.metrics.columns
    timed = {SECONDS, TOKENS_PER_SECOND} <= set(names)
    memory = run.metrics[PEAK_MEMORY].max() if PEAK_MEMORY in names else None
    return {
        "steps": run.metrics.height,
        "seconds": run.metrics[SECONDS].sum() if SECONDS in names else None,
        "pairs": final_mean(run.metrics, PAIRS_PER_SECOND),
        "tokens": final_mean(run.metrics, TOKENS_PER_SECOND),
        "all_tokens": round((run.metrics[SECONDS] * run.metrics[TOKENS_PER_SECOND]).sum()) if timed else None,
        "memory": int(memory) if isinstance(memory, (int, float)) else None,
    }


def _sources(runs: Sequence[RunRecord]) -> list[tuple[str | None, int, list[Mapping[str, Any]]]]:
    """Source, pairs and the figures of each evaluated run there, largest source first; empty for a single source."""
    tables = [{row["source"]: row for row in run.summary["by_source"]} for run in runs if run.evaluated]
    pairs = {source: row["pairs"] for table in tables for source, row in table.items()}
    if len(pairs) < 2:
        return []
    order = sorted(pairs, key=lambda source: (-pairs[source], str(source)))[:SOURCES_SHOWN]
    return [(source, pairs[source], [table.get(source, {}) for table in tables]) for source in order]


def _samples(demo: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[str, str, Any]]]:
    """For each of the first prompts, what every policy wrote and its true reward."""
    samples: dict[str, list[tuple[str, str, Any]]] = {}
    for entry in demo:
        for sample in entry.get("samples", []):
            if len(samples) < SAMPLE_PROMPTS or sample["prompt"] in samples:
                row = (entry["label"], _cut(sample["text"]), sample["reward"])
                samples.setdefault(sample["prompt"], []).append(row)
    return samples


def _cut(written: str) -> str:
    return written if len(written) <= SAMPLE_CHARACTERS else f"{written[:SAMPLE_CHARACTERS]} …"
