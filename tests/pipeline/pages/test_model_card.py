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
    assert yaml.safe_load(front)["base_model"] == text
    assert yaml.safe_load(front)["tags"][2] == text
    assert list(yaml.safe_load(front)) == ["library_name", "pipeline_tag", "base_model", "tags"]
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


def test_ordinary_names_read_as_they_are():
    assert plain("UltraFeedback_binarized-v1.0/train (cleaned)") == "UltraFeedback_binarized-v1.0/train (cleaned)"
    assert plain(1e-6) == "1e-06"
