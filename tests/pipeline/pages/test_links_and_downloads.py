"""Links between the pages of a run, and the files inside of a page."""

import base64
import csv
import io
import json

from scoreonce.pipeline.pages.downloads import as_csv, as_json
from scoreonce.pipeline.pages.links import with_links

PAGE = '<body>\n<nav id="pages" hidden></nav>\n<p>&lt;nav id="pages"&gt;&lt;/nav&gt;</p>'


def content(file):
    return base64.b64decode(file.href.partition(";base64,")[2]).decode()


def test_links_are_relative_to_the_page_and_lead_only_to_what_is_there():
    there = {"report.html", "audit/index.html"}
    assert '<a href="../report.html">Report</a></nav>' in with_links(PAGE, "audit/index.html", there)
    assert '<a href="audit/index.html">Data audit</a></nav>' in with_links(PAGE, "report.html", there)
    both = with_links(PAGE, "compare/index.html", there)
    assert '<a href="../report.html">Report</a> <a href="../audit/index.html">Data audit</a></nav>' in both


def test_links_can_be_changed_and_taken_away_again():
    linked = with_links(PAGE, "report.html", {"audit/index.html"})
    assert with_links(linked, "report.html", set()) == PAGE
    assert with_links("<p>an older page</p>", "report.html", {"audit/index.html"}) == "<p>an older page</p>"


def test_a_table_is_saved_as_it_is():
    rows = [{"run": "dpo", "accuracy": 0.75}, {"run": 'a, "b"', "accuracy": float("nan"), "tied": True}]
    file = as_csv("results.csv", rows)
    assert file.href.startswith("data:text/csv;charset=utf-8;base64,")
    assert [*csv.DictReader(io.StringIO(content(file)))] == [
        {"run": "dpo", "accuracy": "0.75", "tied": ""},
        {"run": 'a, "b"', "accuracy": "nan", "tied": "True"},
    ]


def test_text_of_data_is_no_formula_for_a_spreadsheet_and_negative_numbers_stay_numbers():
    (row,) = csv.DictReader(io.StringIO(content(as_csv("x.csv", [{"source": "=1+1", "margin": -0.5}]))))
    assert row == {"source": "'=1+1", "margin": "-0.5"}


def test_json_has_null_for_what_it_cannot_hold():
    file = as_json("x.json", {"a": [float("inf"), 1.5], 2: ("</script>",)})
    assert json.loads(content(file)) == {"a": [None, 1.5], "2": ["</script>"]}
    assert "<" not in file.href
