"""One self-contained HTML page with the results of a data audit.

`render` gives the page as a string. Charts are SVG and need no script; the page's one script only sorts and searches
the table of the worst pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scoreonce.pipeline.pages import kit
from scoreonce.pipeline.pages.audit.dynamics_map import dynamics_charts
from scoreonce.pipeline.pages.audit.histogram import histogram_charts
from scoreonce.pipeline.pages.audit.judgements import judgement_sentences
from scoreonce.pipeline.pages.audit.pairs import Texts, examples, worst_pairs
from scoreonce.pipeline.pages.audit.shortcuts import ShortcutRow, domain, shortcut_rows, strength, strip
from scoreonce.pipeline.pages.audit.verdict import present, verdict
from scoreonce.pipeline.pages.charts import strip_axis, svg
from scoreonce.pipeline.pages.downloads import as_csv, as_json
from scoreonce.pipeline.pages.numbers import NOTHING, flatten, is_number, number, percent, shown, span, upper_first
from scoreonce.pipeline.pages.text import advice, visible
from scoreonce.pipeline.text.quarantine import REASONS

SOURCES_SHOWN = 25
HEADINGS = (
    ("fail", "Errors: fix before training"),
    ("flag", "Warnings"),
    ("info", "Notes"),
)
SEVERITY_NAMES = {"fail": "error", "flag": "warning", "info": "note"}
# Measures that are shares: of pairs, of judgements, or of tokens.
SHARES = frozenset(
    {
        "longer_side_wins",
        "chosen_refusals",
        "rejected_refusals",
        "chosen_cut",
        "rejected_cut",
        "reference_accuracy_sum",
        "reference_accuracy_mean",
        "reference_chosen_top1",
        "reference_rejected_top1",
    }
)
# Lists of records that have a section of their own.
SECTIONS = ("findings", "distributions", "shortcuts", "sources", "worst", "maps")


@dataclass(frozen=True)
class AuditPage:
    """What the page shows.

    `audit` is the content of audit.json; `texts` has the pairs that it names, by pair_id (one row of graded data makes
    several pairs). `affected` counts the pairs with any finding of a severity.
    """

    audit: Mapping[str, Any]
    texts: Mapping[str, Texts] = field(default_factory=dict)
    affected: Mapping[str, int] = field(default_factory=dict)
    title: str = "scoreonce audit"
    made: str = ""


def render(shown_page: AuditPage) -> str:
    """The page, as HTML."""
    audit = shown_page.audit
    traits = shortcut_rows(audit["shortcuts"])
    ends = domain(traits)
    judged = audit.get("judgements")
    sources = sorted(audit["sources"], key=lambda row: -row["pairs"])
    html: str = (
        kit.environment()
        .get_template("audit/audit.html.jinja")
        .render(
            title=shown_page.title,
            made=shown_page.made,
            verdict=verdict(audit, shown_page.affected),
            findings=_findings(shown_page),
            headings=HEADINGS,
            severities=SEVERITY_NAMES,
            absent=[finding for finding in audit["findings"] if not finding["rows"]],
            titles={finding["name"]: finding["title"] for finding in audit["findings"]},
            shortcuts=[(trait, strip(trait, ends)) for trait in traits],
            strip_axis=strip_axis(ends),
            by_source=_by_source(traits),
            histograms=histogram_charts(audit["distributions"]),
            sources=sources,
            sources_shown=SOURCES_SHOWN,
            measures_by_source=_numbers_of(sources),
            worst=worst_pairs(audit["worst"], shown_page.texts),
            quarantine=_quarantine(audit["data"]),
            data_facts=_data_facts(audit),
            measures=_measures(audit, of_reference=False),
            tables=_tables(audit),
            reference_facts=[*_facts(audit["reference"] or {}), *_measures(audit, of_reference=True)],
            judgements=judgement_sentences(judged),
            not_judged=audit.get("not_judged", []),
            maps=dynamics_charts(audit.get("maps") or []),
            decided=any("decided" in entry for entry in audit["shortcuts"]),
            downloads=[
                as_csv("findings.csv", [_plain(finding) for finding in audit["findings"]]),
                as_csv("shortcuts.csv", audit["shortcuts"]),
                as_csv("sources.csv", sources),
                as_json("distributions.json", audit["distributions"]),
            ],
            share=_share,
            words=_words,
            measure=_measure,
            upper_first=upper_first,
            heat=_heat,
            svg=svg,
            seen=visible,
            advice=advice,
            style=kit.style("texts.css", "audit/audit.css"),
            **kit.script(kit.resource("audit/audit.js")),
        )
    )
    # JSON can spell half of a surrogate pair, which no file can hold.
    return html.encode("utf-8", "replace").decode("utf-8")


def _plain(finding: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in finding.items() if name != "examples"}


def _findings(shown_page: AuditPage) -> list[Mapping[str, Any]]:
    """The findings that affect any row, by severity, then by rows, with their examples as the page shows them."""
    groups = [present(shown_page.audit, severity) for severity, _ in HEADINGS]
    return [
        {
            **finding,
            "examples": examples(finding["examples"], shown_page.texts),
            "examples_open": int(finding["severity"] == "fail" or finding in groups[1][:1]),
        }
        for group in groups
        for finding in group
    ]


def _by_source(traits: Sequence[ShortcutRow]) -> list[tuple[str, list[Mapping[str, Any] | None]]]:
    """For each source, largest first, its entry under every trait."""
    tables = [{entry["source"]: entry for entry in trait.sources} for trait in traits]
    pairs = {source: entry["pairs"] for table in tables for source, entry in table.items()}
    order = sorted(pairs, key=lambda source: (-pairs[source], source))
    return [(source, [table.get(source) for table in tables]) for source in order]


def _numbers_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The measures that any source has, in the order of the first that has them."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if is_number(value))
    return [name for name in names if name not in ("pairs", "share")]


def _quarantine(data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Reason, number of rows and share of the raw rows, most frequent first."""
    reasons = sorted(data["quarantined_by_reason"].items(), key=lambda item: (-item[1], item[0]))
    raw = data["counts"]["raw"]
    return [
        (REASONS.get(reason, _words(reason)), number(rows), _share(rows / raw) if raw else NOTHING)
        for reason, rows in reasons
    ]


def _data_facts(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts = audit["data"]["counts"]
    facts = [
        ("source", shown(audit["data"]["source"])),
        ("raw rows", number(counts["raw"])),
        ("pairs to train on", number(counts["train"])),
        ("pairs held out", number(counts["test"])),
        ("quarantined", number(counts["quarantined"])),
    ]
    return [*facts, ("trained runs", shown(list(audit["training"])))] if audit["training"] else facts


def _measures(audit: Mapping[str, Any], *, of_reference: bool) -> list[tuple[str, str]]:
    """The reference's measures, or the others; those of judgements have a section of their own."""
    elsewhere, prefix = audit.get("judgements") or {}, "reference_"
    return [
        (_words(name.removeprefix(prefix)), _value(value, name))
        for name, value in audit["measures"].items()
        if name not in elsewhere and name.startswith(prefix) == of_reference
    ]


def _facts(tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(_words(name.replace(".", ": ")), _value(value, name)) for name, value in flatten(tree).items()]


def _tables(audit: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Further lists of records in the audit: the title of each, the names of its columns, and its rows."""
    found = {
        name: [_names_first(_with_span(row)) for row in rows]
        for name, rows in audit.items()
        if name not in SECTIONS and isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows)
    }
    return [
        (
            _words(name),
            [_words(key) for key in rows[0]],
            [[_value(value, key) for key, value in row.items()] for row in rows],
        )
        for name, rows in found.items()
    ]


def _with_span(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record with its ends, where it has such, as one value."""
    if "low" not in row or "high" not in row:
        return row
    rest = {key: value for key, value in row.items() if key not in ("low", "high")}
    return {"range": span(row["low"], row["high"]), **rest}


def _measure(value: Any, name: str) -> str:
    return _share(value) if name in SHARES and is_number(value) else number(value)


def _names_first(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(sorted(row.items(), key=lambda item: not isinstance(item[1], str)))


def _value(value: Any, name: str) -> str:
    if name in SHARES:
        return _measure(value, name)
    if isinstance(value, float) and value.is_integer():
        return number(int(value))
    return number(value) if is_number(value) else shown(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _share(value: float) -> str:
    """A share in per cent; a share above zero is never shown as 0.0%."""
    if 0 < value < 0.001:
        return "< 0.1%"
    return percent(value)


def _heat(entry: Mapping[str, Any]) -> int:
    """How strongly a cell is tinted, in per cent: fully from an AUC of 0.3 away from 0.5."""
    return round(min(1.0, strength(entry) / 0.3) * 45)
