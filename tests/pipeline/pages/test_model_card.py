"""The model card: what a reader sees of names that were chosen to be more than names."""

import json
from html.parser import HTMLParser

import pytest
import yaml
from markdown_it import MarkdownIt
from written import lineage

from scoreonce.pipeline.pages.model_card import card, plain
from scoreonce.schemas.manifests import MethodRecord, PolicyStart

EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[click](javascript:alert(1))",
    "![x](https://example.org/pixel.png)",
    "`</code><script>alert(1)</script>`",
    "```\n<script>alert(1)</script>\n```",
    "a | b\n\n# heading\n\n<b>bold</b>",
    "\\<b>\\[a](b)",
    "&lt;script&gt; &amp;#60;b>",
    "]: https://example.org",
    "- a\n---\nlicense: mit",
)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attributes):
        self.found.add(tag)


def evil_card(text: str) -> str:
    method = MethodRecord(
        name=text,
        title=text,
        paper=text,
        hyperparameters={"beta": text},
        objective=text,
        calibration=[text],
        selection=text,
    )
    start = PolicyStart(model=text, weights=text, adapter=text)
    data = lineage("x").data.model_copy(update={"source": text})
    return card(lineage(text, method=method, policy=start, data=data, train={"where": text}))


@pytest.mark.parametrize("text", EVIL)
def test_names_stay_text(text):
    _, front, body = evil_card(text).split("---\n", 2)
    assert yaml.safe_load(front)["tags"][2] == text
    assert list(yaml.safe_load(front)) == ["library_name", "pipeline_tag", "tags"], "none names a base model on the Hub"
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    tags = Tags()
    tags.feed(page)
    assert tags.found <= {"h1", "h2", "p", "strong", "em", "table", "thead", "tbody", "tr", "th", "td", "pre", "code"}
    assert page.count("<tr>") == 3, "the head and two settings"
    assert page.count("<h1>") == 1


@pytest.mark.parametrize("text", EVIL)
def test_the_lineage_can_be_read_back(text):
    block = evil_card(text).split("```json\n")[1].split("\n```\n")[0]
    assert json.loads(block)["data"]["source"] == text
    assert not set("<>&`") & set(block)


def test_held_out_figures_and_findings_are_tables():
    """Of findings, those that concern some pair; a name in one stays text."""
    rates = {"accuracy": 0.625, "accuracy_low": 0.5, "accuracy_high": 0.75, "pairs": 1200}
    finding = {"title": "a | <b>b</b>", "severity": "flag", "rows": 3, "share": 0.0025}
    found = [finding, {**finding, "title": "absent", "rows": 0}]
    named = lineage("x", policy=PolicyStart(model="org/base-1.0", weights="w", adapter=None))
    text = card(named, figures={**rates, "cross_entropy_increase": 0.0314}, findings=found)
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == "org/base-1.0"
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2])
    assert "<td>62.5%</td>\n<td>50.0% to 75.0%</td>" in page
    assert "Over 1,200 pairs" in page
    assert "+0.031 nats" in page
    assert "<td>a | &lt;b&gt;b&lt;/b&gt;</td>\n<td>flag</td>\n<td>3</td>\n<td>0.2%</td>" in page
    assert "absent" not in page
    assert "2 checks" in page
    assert "No finding." in card(named, findings=[{**finding, "rows": 0}])


def test_ordinary_names_read_as_they_are():
    assert plain("UltraFeedback_binarized-v1.0/train (cleaned)") == "UltraFeedback_binarized-v1.0/train (cleaned)"
    assert plain(1e-6) == "1e-06"
