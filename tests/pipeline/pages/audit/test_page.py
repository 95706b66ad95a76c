"""The audit page: what it says, in which order, and that nothing in the data can become markup, code or a request."""

import base64
import hashlib
import json
import re

import pytest
from audits import EVIL, auc, audit, evil_audit, example, finding, texts
from html_page import Page

from scoreonce.pipeline.audit.checks.reference_checks import reference_measures
from scoreonce.pipeline.audit.summary.sources import pair_measures
from scoreonce.pipeline.pages.audit.page import SHARES, AuditPage, render
from scoreonce.pipeline.pages.audit.pairs import Texts
from scoreonce.pipeline.pages.audit.verdict import verdict


def page(found=None, **parts):
    return Page(render(AuditPage(found or audit(), **parts)))


def test_shares_are_measures():
    assert pair_measures().keys() | reference_measures().keys() >= SHARES


def test_a_table_names_its_rows_first():
    """audit.json has its keys in alphabetical order."""
    shown = page(audit(languages=[{"chosen": 3, "language": "English", "prompt": 4}])).text
    assert "Languages language chosen prompt English 3 4" in shown


def test_a_share_is_written_in_per_cent_and_other_measures_are_not():
    sources = [{"source": "web", "pairs": 9, "share": 1.0, "chosen_cut": 0.0004, "mean_chosen_len": 0.5}]
    shown = page(audit(sources=sources, measures={"longer_side_wins": 0.25})).text
    assert "web 9 100.0% < 0.1% 0.500" in shown
    assert "longer side wins 25.0%" in shown


# ---- verdict ----


def test_the_verdict_counts_errors_and_says_where_to_start():
    found = verdict(audit(), {"fail": 9, "flag": 30})
    assert found.headline == "Two\N{NO-BREAK SPACE}errors to fix before training"
    assert found.sentences == (
        "9 of 200 pairs (4.5%) have an error: title of prompt_in_both_splits and title of double_bos.",
        "Start here: Fix of prompt_in_both_splits.",
        "The strongest shortcut is “Length”: it alone predicts the label with AUC 0.74 (0.73 to 0.75).",
        "10 of 210 rows are unusable and were quarantined.",
    )


def test_warnings_alone_are_no_errors():
    found = verdict(audit(findings=[finding("refusal", rows=1)]), {"flag": 1})
    assert found.headline == "No errors; one\N{NO-BREAK SPACE}warning to review"
    assert found.sentences[0] == "1 of 200 pairs (0.5%) have a warning: title of refusal."


def test_a_clean_set():
    counts = {"raw": 200, "train": 200, "test": 0, "quarantined": 0}
    data = {"source": "x", "counts": counts, "quarantined_by_reason": {}}
    found = verdict(audit(data=data, findings=[finding("refusal", rows=0)], shortcuts=[]), {})
    assert found.headline == "No errors or warnings"
    assert found.sentences == ("200 pairs were checked.",)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([auc("length", 0.505)], "No shortcut predicts the label; the strongest is “Length”, AUC 0.51 (0.49 to 0.52)."),
        (
            [auc("length", 0.53)],
            "No strong shortcut: the strongest, “Length”, barely predicts the label, AUC 0.53 (0.52 to 0.54).",
        ),
        (
            [auc("length", 0.6), auc("list", 0.3)],
            "The strongest shortcut is “List”: it alone predicts the label with AUC 0.30 (0.29 to 0.31), in reverse.",
        ),
        # Only of one source: nothing is said of the whole.
        ([auc("length", 0.9, "web")], None),
    ],
)
def test_the_strongest_shortcut(entries, sentence):
    found = verdict(audit(shortcuts=entries, findings=[]), {}).sentences
    assert sentence in found if sentence else not any("shortcut" in said for said in found)


# ---- sections ----


def test_every_section_is_there_with_its_numbers():
    shown = page(texts=texts(0, 1, 2))
    assert [a["id"] for tag, a in shown.tags if tag == "section"] == [
        "findings",
        "shortcuts",
        "distributions",
        "sources",
        "quarantine",
        "measures",
        "worst",
    ]
    for words in (
        "30 of 200 15.0%",
        "Meaning of duplicate_pair. Fix of duplicate_pair.",
        "0.74 0.73 to 0.75",
        "web 150 75.0% 0.625 books 50 25.0% 0.125",
        "the chosen completion is empty or only white space 7 3.3%",
        "pairs per prompt 17.5",
        "Prompt Len tokens half below 20, 95% below 39",
        "row 7 reads the same",
        "1 check found nothing Title of reference_missing",
        "pairs to train on 180",
        "source pairs.jsonl",
    ):
        assert words in shown.text


def test_findings_stand_by_severity_then_by_rows():
    order = [a["id"] for tag, a in page().tags if tag == "article"]
    assert order == [
        "finding-prompt_in_both_splits",
        "finding-double_bos",
        "finding-duplicate_pair",
        "finding-crowded_prompt",
    ]


def test_headings_name_the_severities():
    shown = page().text
    places = [shown.index(words) for words in ("Errors: fix before training", "Warnings", "Notes")]
    assert places == sorted(places)
    assert "error Title of prompt_in_both_splits" in shown  # in the list at a glance


def test_examples_stand_side_by_side_with_their_difference():
    html = render(AuditPage(audit(), texts=texts(0)))
    assert '<h5>Chosen</h5><div class="text" dir="auto">the <mark>cat</mark> sat here</div>' in html
    assert '<h5>Rejected</h5><div class="text" dir="auto">the <mark>dog</mark> sat here</div>' in html
    assert "The text is not in the prepared pairs." in page().text


def test_the_pair_that_an_example_resembles():
    double = Texts("b", "test", 4321, "Which large animal?", "the cat sat here", None)
    entry = finding("prompt_in_both_splits", "fail", examples=[example(0, other_pair_id="b")])
    html = render(AuditPage(audit(findings=[entry]), texts={**texts(0), "b": double}))
    assert "Similar pair: test row 4,321" in html
    assert "Which <mark>large</mark> animal?" in html


def test_completion_only_data_has_one_side():
    html = render(AuditPage(audit(shortcuts=[]), texts=texts(0, 1, 2, rejected=None)))
    assert html.count("<h5>Chosen</h5>") == 5
    assert "<h5>Rejected</h5>" not in html
    assert "None measured: this needs pairs with both sides." in html


def test_histograms_are_drawn_without_script():
    """Counts 1, 4, 0 and 5: bars of 20, 80, 0 and 100% of the plot's height."""
    html = render(AuditPage(audit()))
    figure = html.partition('<figure class="chart">')[2].partition("</figure>")[0]
    bars = figure.partition("mark-rect role-mark")[2].partition("</g>")[0]
    heights = [float(drawn) for drawn in re.findall(r'd="M[-\d.]+,[-\d.]+h[\d.]+v([\d.]+)h', bars)]
    assert [height / max(heights) for height in heights] == pytest.approx([0.2, 0.8, 0, 1])
    assert "10 to 20 tokens: 4" in Page(html).text


def test_worst_pairs_are_rows_with_values_to_sort_by():
    shown = page(texts=texts(1))
    values = [a["data-value"] for tag, a in shown.tags if tag == "td" and "data-value" in a]
    assert values == ["12.5", "1", "3.0", "2"]
    assert "Title of duplicate_pair" in shown.text
    assert "not stated" in shown.text


def test_many_sources_are_folded():
    rows = [{"source": f"s{i:03d}", "pairs": 100 - i, "share": 0.01, "x": 1.0} for i in range(60)]
    shown = page(audit(sources=rows))
    assert "35 smaller sources" in shown.text
    assert all(row["source"] in shown.text for row in rows)


def test_reference_and_training_are_shown_where_there_are_any():
    assert "Not scored yet" in page().text
    by_gap = [{"low": None, "high": 0, "pairs": 30}, {"low": 0, "high": None, "pairs": 1200}]
    reference = {"model": "tiny", "accuracy_sum": 0.625}
    measures = {"pairs_per_prompt": 2.0, "reference_accuracy_mean": 0.75}
    shown = page(audit(reference=reference, measures=measures, by_length_gap=by_gap, training=["dpo", "ipo"]))
    assert "Reference model tiny accuracy sum 0.625 accuracy mean 75.0% Pairs pairs per prompt 2 By" in shown.text
    assert "By length gap range pairs below 0 30 0 and more 1,200" in shown.text
    assert "trained runs dpo, ipo" in shown.text


def test_judgements_and_what_was_not_looked_for():
    """Of two judgements 18% disagree: ε = (1 − √(1 − 0.36)) / 2 = 10%."""
    judged = {
        "kind": "votes",
        "pairs": 100,
        "judgements": 300,
        "dissent": 25,
        "disagreement": 0.18,
        "disagreement_low": 0.1,
        "disagreement_high": 0.25,
        "flip_rate": 0.1,
        "flip_rate_low": 0.05,
        "flip_rate_high": 0.15,
        "suggested_label_smoothing": 0.028,
    }
    shown = page(audit(judgements=judged, not_judged=["near-duplicates: switched off"]))
    assert "ε = (1 − √(1 − 2d)) / 2 = 10.0% (5.0% to 15.0%)" in shown.text
    assert "Suggested label_smoothing: 0.028. It is never applied automatically." in shown.text
    assert "1 check was not run near-duplicates: switched off" in shown.text
    assert "Judgements" not in page().text


def test_training_dynamics_are_drawn():
    points = [{"pair_id": "a", "mean": 1.5, "spread": 0.5}, {"pair_id": "b", "mean": -0.5, "spread": 0.25}]
    entry = {
        "label": "dpo <b>",
        "x": "mean margin, nats",
        "y": "spread",
        "pairs": 4000,
        "points": points,
        "regions": {"ambiguous": 1000, "learned": 2000, "hard": 1000},
    }
    shown = page(audit(maps=[entry]))
    assert "dpo <b> 4,000 pairs learned: 2,000 (50.0%)" in shown.text
    dots = [a["fill"] for tag, a in shown.tags if tag == "path" and a.get("opacity") == "0.5"]
    assert dots == ["var(--run-2)", "var(--run-5)"]
    assert "Training dynamics" not in page().text


def test_an_empty_audit_gives_a_page():
    counts = dict.fromkeys(("raw", "train", "test", "quarantined"), 0)
    shown = page(
        audit(
            data={"source": "x", "counts": counts, "quarantined_by_reason": {}},
            findings=[],
            sources=[],
            distributions=[],
            shortcuts=[],
            measures={},
            worst=[],
        )
    )
    assert "No pairs to train on" in shown.text
    assert "Empty: every row is usable." in shown.text


def test_numbers_that_are_none():
    """One pair has no interval; a source without pairs of two sides has no measure."""
    entry = {**auc("length", 1.0), "low": None, "high": None}
    measures = {"x": None, "y": float("nan"), "z": float("inf")}
    shown = page(
        audit(
            shortcuts=[entry, {**auc("list", 0.5), "auc": None}],
            measures=measures,
            sources=[{"source": None, "pairs": 1, "share": 1.0, "longer_wins": None}],
        )
    )
    assert "Length 1.00 150" in shown.text


# ---- texts ----


def test_a_megabyte_of_text_is_clipped():
    long = texts(0, chosen="word " * 200_000, rejected="other " * 200_000)
    html = render(AuditPage(audit(), texts=long))
    assert len(html) < 120_000
    assert "more characters are not on this page" in html


def test_invisible_characters_and_directions():
    html = render(AuditPage(audit(), texts=texts(0, chosen="\u202eabc\x00\x1b[31m שלום 👩‍👩‍👧", rejected="x")))
    assert ">U+202E</bdi>abc" in html
    assert ">NUL</bdi>" in html
    assert "שלום 👩‍👩‍👧" in html
    assert not set("\u202e\x00\x1b") & set(html)


def test_half_a_surrogate_pair_cannot_spoil_the_file():
    html = render(AuditPage(audit(measures=json.loads('{"half \\ud83d": 1}')), texts=texts(0, chosen="\ud83d")))
    html.encode("utf-8")
    assert ">U+D83D</bdi>" in html


# ---- nothing in the data becomes markup, code or a request ----


def evil_page():
    pairs = texts(1, prompt=EVIL, chosen=EVIL + " a b c", rejected=EVIL + " a x c")
    double = Texts("b", "train", 9, EVIL + "!", EVIL, EVIL)
    return render(AuditPage(evil_audit(), texts={**pairs, "b": double}, title=EVIL, made=EVIL))


def test_text_from_data_is_text_everywhere():
    html = evil_page()
    shown = Page(html)
    assert [tag for tag, _ in shown.tags if tag in ("script", "img", "iframe", "object", "link")] == ["script"]
    assert html.count("<script") == html.count("</script>") == 1
    assert "<!--" not in html
    assert shown.text.count("<img src=https://evil.example/x onerror=alert(1)>") >= 20  # read as words
    assert not any(name.startswith("on") for _, attributes in shown.tags for name in attributes)


def test_the_page_loads_nothing():
    assert Page(evil_page()).loads_nothing()


def test_the_policy_admits_exactly_the_script_of_the_page():
    html = render(AuditPage(audit()))
    script = html.rpartition("<script>")[2].partition("</script>")[0]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in html
    assert len(html) < 60_000
