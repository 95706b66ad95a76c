"""The audit page as a file: texts that are looked up, damaged inputs, and the page in a browser."""

import json
import struct

import polars as pl
import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages.audit.page import write_page
from scoreonce.stages.common.paths import SPLITS, RunPaths

EVIL = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


def prepared(folder, split, rows):
    """Pairs as `prepare` leaves them, as far as the page reads them."""
    path = RunPaths(folder, folder / "store", "dpo").pairs(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(
        {
            "pair_id": [f"{split}{row}" for row in rows],
            "row": rows,
            "prompt": [f"prompt {row} {EVIL}" for row in rows],
            "chosen": [f"cat {row}" for row in rows],
            "rejected": [f"dog {row}" for row in rows],
        }
    ).write_parquet(path)
    return path


def entry(split, row, **more):
    return {"pair_id": f"{split}{row}", "split": split, "row": row, **more}


def audited(folder, **parts):
    """An audit of five training pairs and two held-out ones: one error, two warnings, and five pairs by their score."""
    prepared(folder, "train", range(5))
    prepared(folder, "test", (7, 8))

    def finding(name, severity, rows, examples):
        return {
            "name": name,
            "severity": severity,
            "title": name,
            "meaning": "",
            "rows": rows,
            "of": 7,
            "share": rows / 7,
            "column": name,
            "fix": "",
            "examples": examples,
        }

    scores = (3.0, 10.0, 2.0, 1.0, 2.5)
    whole = {
        "manifest": {
            "format": 2,
            "pairs_manifest_sha256": "0" * 64,
            "reference_manifest_sha256": None,
            "settings": {},
            "files": {},
        },
        "reference": None,
        "training": [],
        "distributions": [],
        "shortcuts": [],
        "sources": [],
        "measures": {},
        "data": {
            "source": "x",
            "quarantined_by_reason": {},
            "counts": {"raw": 7, "train": 5, "test": 2, "quarantined": 0},
        },
        "findings": [
            finding("leaked", "fail", 2, [entry("test", 7, note="as train row 3", other_pair_id="train3")]),
            finding("tied", "flag", 2, [entry("train", 1, note="")]),
            finding("cut", "flag", 2, []),
        ],
        "worst": [
            entry("train", row, source="ab"[row % 2], findings=["tied"], score=score)
            for row, score in enumerate(scores)
        ],
    }
    flags = {"leaked": [0, 0, 0, 1, 0, 1, 0], "tied": [1, 1, 0, 0, 0, 0, 0], "cut": [0, 1, 1, 0, 0, 0, 0]}
    (folder / "audit").mkdir()
    (folder / "audit" / "audit.json").write_text(json.dumps(whole | parts))
    pl.DataFrame(flags).cast(pl.Boolean).write_parquet(folder / "audit" / "pairs.parquet")
    return RunPaths(folder, folder / "store", "dpo")


def test_texts_are_looked_up_in_both_splits(tmp_path):
    html = write_page(audited(tmp_path)).read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>")
    assert all(f"<mark>{words}" in html for words in ("cat</mark> 7", "dog</mark> 7", "cat</mark> 1"))
    assert "Similar pair: train row 3" in html
    assert f"<title>{tmp_path.name}: scoreonce audit</title>" in html


def test_pairs_of_one_row_are_told_apart(tmp_path):
    """A row of graded data makes two pairs: the example is the second, and shows its words."""
    paths = audited(tmp_path, findings=[], worst=[entry("train", 3, findings=[], score=1.0, source=None)])
    path = paths.pairs("train")
    pairs = pl.read_parquet(path).with_columns(row=pl.lit(3))
    pairs.write_parquet(path)
    shown = write_page(paths).read_text(encoding="utf-8")
    assert "cat 3" in shown
    assert "cat 4" not in shown


def test_pairs_with_any_finding_are_counted_once(tmp_path):
    """The error affects two pairs. Rows 0, 1 and 2 have a warning, row 1 two of them."""
    paths = audited(tmp_path)
    assert "2 of 7 pairs (28.6%) have an error: leaked." in write_page(paths).read_text(encoding="utf-8")
    path = tmp_path / "audit" / "audit.json"
    audit = json.loads(path.read_text())
    path.write_text(json.dumps(audit | {"findings": audit["findings"][1:]}))
    assert "3 of 7 pairs (42.9%) have a warning: tied and cut." in write_page(paths).read_text(encoding="utf-8")


def test_no_pairs_at_all(tmp_path):
    counts = {"raw": 3, "train": 0, "test": 0, "quarantined": 3}
    data = {"source": "x", "counts": counts, "quarantined_by_reason": {"chosen_is_blank": 3}}
    paths = audited(tmp_path, findings=[], worst=[], data=data)
    html = write_page(paths).read_text(encoding="utf-8")
    assert "No pairs to train on" in html
    assert "3 of 3 rows are unusable" in html


@pytest.mark.parametrize("damaged", ["audit/audit.json", "audit/pairs.parquet", "pairs/train.parquet"])
def test_a_damaged_file_is_named(tmp_path, damaged):
    paths = audited(tmp_path)
    (tmp_path / damaged).write_text("{ this is not it")
    with pytest.raises(InputError) as caught:
        write_page(paths)
    assert damaged in caught.value.where
    assert not (tmp_path / "audit" / "index.html").exists()


def test_an_audit_of_another_format_and_none(tmp_path):
    """Format 1, of before, had no manifest of its own."""
    for parts, version in (
        ({"manifest": {"format": 3}}, "format 3"),
        ({"manifest": {}}, "no format"),
    ):
        (tmp_path / version).mkdir()
        with pytest.raises(InputError, match=rf"(?s)another version.*{version}.*scoreonce audit"):
            write_page(audited(tmp_path / version, **parts))
    paths = audited(tmp_path)
    document = json.loads((tmp_path / "audit" / "audit.json").read_text())
    del document["manifest"]
    (tmp_path / "audit" / "audit.json").write_text(json.dumps(document | {"format": 1}))
    with pytest.raises(InputError, match=r"(?s)another version.*format 1;.*scoreonce audit"):
        write_page(paths)
    (tmp_path / "audit" / "audit.json").unlink()
    with pytest.raises(InputError, match="scoreonce audit"):
        write_page(paths)


# ---- in a browser ----


# Acts on the page as a person would and writes down, in its title, what is then to be seen.
ACT = """
const rows = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
const seen = (column) => rows().map((row) => row.cells[column].textContent.trim().split(" ")[0]).join(" ");
const heads = [...table.tHead.rows[0].cells];
const found = [seen(0)];
for (const column of [0, 3, 3]) {
  heads[column].querySelector("button").click();
  found.push(`${heads[column].ariaSort}: ${seen(column)}`);
}
const box = document.getElementById("search");
for (const words of ["DOG 4", "prompt nowhere", ""]) {
  box.value = words;
  box.dispatchEvent(new Event("input"));
  found.push(`${rows().length} (${document.getElementById("matches").textContent})`);
}
document.title = found.join(" | ");
"""


def test_sorting_and_searching_in_a_browser(tmp_path, browser):
    """By score as it comes, then upwards, by row downwards and upwards; then two searches and none."""
    page = write_page(audited(tmp_path))
    html = page.read_text(encoding="utf-8")
    start, policy = html.rindex("</script>"), "default-src 'none'"
    # Under the page's own policy no other script would run.
    acting = (html[:start] + ACT + html[start:]).replace(policy, "default-src 'unsafe-inline'")
    (tmp_path / "acting.html").write_text(acting.replace("script-src 'sha256-", "x-unknown 'sha256-"), encoding="utf-8")
    title = title_of(browser.dom(tmp_path / "acting.html"))
    assert title.split(" | ") == [
        "3.00 10.0 2.00 1.00 2.50",
        "ascending: 1.00 2.00 2.50 3.00 10.0",
        "descending: 4 3 2 1 0",
        "ascending: 0 1 2 3 4",
        "1 (1 of 5)",
        "0 (0 of 5)",
        "5 ()",
    ]


def test_the_page_in_a_browser_runs_its_own_script_alone(tmp_path, browser):
    drawn = browser.dom(write_page(audited(tmp_path)))
    assert "<title>taken" not in drawn
    assert drawn.count('<button type="button">') == 5
    assert "<img" not in drawn


def title_of(drawn):
    return drawn.partition("<title>")[2].partition("</title>")[0]


# A window of Chromium's is never narrower than 500 px, a frame is; and a frame can be shown without running scripts.
FRAME = """<!doctype html><title></title><style>body {{ margin: 0 }} iframe {{ border: 0; display: block }}</style>
<iframe width="{width}" height="2000" src="audit/index.html" {more}></iframe>
<script>
onload = () => {{
  const shown = document.querySelector("iframe").contentDocument;
  document.title = {what};
}};
</script>"""


def framed(browser, folder, width, what, more=""):
    """What a piece of JavaScript says of the page in a frame of this width, `shown` being its document."""
    path = folder / "frame.html"
    path.write_text(FRAME.format(width=width, what=what, more=more), encoding="utf-8")
    return title_of(browser.dom(path, "--allow-file-access-from-files"))


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window_and_nothing_is_injected(tmp_path, browser, width):
    """With words of 250 letters in every text that data bring; one script, no image, whatever the texts say."""
    endless = "x" * 250
    long = entry("train", 1, findings=["tied"], score=9.0, source=endless, note=endless)
    shares = [{"source": endless, "pairs": 7, "share": 1.0, **{f"measure_{i}": 0.5 for i in range(20)}}]
    paths = audited(tmp_path, sources=shares, worst=[long])
    for path in map(paths.pairs, SPLITS):
        pairs = pl.read_parquet(path).with_columns(chosen=pl.concat_str("chosen", pl.lit(f" {endless} {EVIL}")))
        pairs.write_parquet(path)
    write_page(paths)
    what = (
        "[shown.defaultView.innerWidth, shown.documentElement.scrollWidth, shown.scripts.length, "
        "shown.images.length].join(' ')"
    )
    measured = framed(browser, tmp_path, width, what)
    assert measured == f"{width} {width} 1 0"
    picture = tmp_path / f"audit-{width}.png"
    browser.screenshot(tmp_path / "frame.html", picture, width=max(width, 500), height=2000)
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (max(width, 500), 2000)
    assert picture.stat().st_size > 20_000  # an empty one has 5,000


def test_without_script_all_is_shown_but_the_search(tmp_path, browser):
    """Every pair's words are there, folded ones too; nothing is hidden but the field that needs script, and
    the place for links to other pages, of which there are none."""
    write_page(audited(tmp_path))
    hidden = "[...shown.body.querySelectorAll(':not(script)')].filter(e => getComputedStyle(e).display === 'none')"
    what = f"{hidden}.map(e => e.className + e.id).join(',') + ' | ' + shown.getElementById('worst').textContent"
    hides, _, text = framed(browser, tmp_path, 1280, what, 'sandbox="allow-same-origin"').partition(" | ")
    assert hides == "pages,tools"
    assert all(f"{animal} {row}" in text for animal in ("cat", "dog") for row in range(5))
