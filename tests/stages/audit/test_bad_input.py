"""Texts and numbers that nobody planned for: an audit of them is a page, never a crash."""

import json
from html.parser import HTMLParser

import polars as pl
import pytest
from written import write_reference_manifest

from scoreonce.schemas.tables import Pair
from scoreonce.stages.audit import stage as audit
from scoreonce.stages.common.files import read_json, sha256, write_json, write_parquet

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"


def rewritten(world, split: str = "train", **columns: pl.Expr) -> None:
    """Change the prepared table, as `prepare` would have written it."""
    path = world.paths.pairs(split)
    table = Pair.cast(pl.read_parquet(path).with_columns(**columns))
    write_parquet(path, table.to_arrow(compat_level=pl.CompatLevel.oldest()))
    manifest = read_json(world.paths.pairs_manifest)
    manifest["files"][path.name] = sha256(path)
    write_json(world.paths.pairs_manifest, manifest)


def found(world) -> dict[str, int]:
    return {each["name"]: each["rows"] for each in read_json(world.paths.audit_summary)["findings"] if each["rows"]}


@pytest.mark.parametrize(
    "text",
    [
        EVIL,
        "\x00\x01\x1b[31m",
        "\u202egnp.exe",
        "👩‍👩‍👧‍👦" * 50,
        "",
        " ",
        "\n" * 1000,
        "字" * 500,
        "a" * 1_000_000,
        "```\n" * 5000,
        "\ufffd",
        "[INST] <s> </s>",
        "'; DROP TABLE pairs; --",
        "1. " * 3000,
        "\u0301" * 100,
        "İ" * 100,
    ],
)
def test_any_text_gives_a_page(world, text):
    world.prepare(world.random_pairs(6), world.random_pairs(2, seed=1))
    odd = pl.when(pl.col("row") == 2).then(pl.lit(text))
    rewritten(world, prompt=odd.otherwise("prompt"), chosen=odd.otherwise("chosen"), source=odd.otherwise(pl.lit("s")))
    audit.audit(world.run())
    assert (world.paths.audit / "index.html").stat().st_size > 1000


class Scripts(HTMLParser):
    """Counts what a browser would run."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.handlers += [tag] if tag == "img" else []


def test_text_of_the_data_never_becomes_markup(world):
    world.prepare([*world.random_pairs(6), world.random_pairs(6)[2]])
    texts = ("prompt", "chosen", "rejected", "source")
    rewritten(world, **{name: pl.lit(EVIL) + pl.col(name).fill_null("") for name in texts})
    audit.audit(world.run())
    page = (world.paths.audit / "index.html").read_text(encoding="utf-8")
    parser = Scripts()
    parser.feed(page)
    assert parser.handlers == []
    assert "<script>alert" not in page


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None, -1e300])
def test_scores_that_are_no_numbers(world, score):
    world.prepare(world.random_pairs(6))
    rewritten(world, chosen_score=pl.lit(score, pl.Float64), rejected_score=pl.lit(1.0))
    audit.audit(world.run())
    json.loads(world.paths.audit_summary.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    hits = found(world)
    broken = {name for name in hits if name.startswith("rule_")}
    assert broken == {"rule_chosen_score_nan"} if score != score else not broken or broken == {"rule_chosen_score_inf"}


@pytest.mark.slow
def test_a_hundred_thousand_pairs_of_one_prompt(world):
    pairs = world.random_pairs(100_000)
    world.prepare([(pairs[0][0], chosen, rejected) for _, chosen, rejected in pairs])
    audit.audit(world.run())
    assert found(world)["crowded_prompt"] == 100_000


def test_completions_only_and_one_pair(world):
    world.prepare([(prompt, chosen, None) for prompt, chosen, _ in world.random_pairs(5)])
    rewritten(world, rejected=pl.lit(None, pl.String))
    audit.audit(world.run())
    assert "near_identical_sides" not in found(world)
    assert read_json(world.paths.audit_summary)["shortcuts"] == []


def test_a_table_changed_after_prepare_breaks_a_rule(world):
    world.prepare(world.random_pairs(6))
    rewritten(world, chosen_len=pl.when(pl.col("row") == 3).then(0).otherwise("chosen_len"))
    audit.audit(world.run())
    hits = found(world)
    assert (hits["rule_chosen_len_min"], hits["tokens_disagree"]) == (1, 1)


def test_reference_numbers_that_cannot_be(world):
    world.prepare(world.random_pairs(6))
    ids = pl.read_parquet(world.paths.pairs("train"))["pair_id"]
    values = [float("nan"), float("inf"), 3.0, None, -1.0, float("-inf")]
    scores = pl.DataFrame({"pair_id": ids, "ref_chosen_logps": values, "ref_rejected_logps": [-2.0] * 6})
    scores = scores.with_columns(ref_margin=pl.col("ref_chosen_logps") + 2)
    for split, rows in (("train", scores), ("test", scores.clear())):
        write_parquet(world.paths.reference(split), rows.to_arrow())
    write_reference_manifest(world.paths)
    audit.audit(world.run())
    hits = found(world)
    assert (hits["reference_logps_impossible"], hits["reference_missing"]) == (4, 1)
    json.loads(world.paths.audit_summary.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_a_reference_of_other_pairs_and_an_empty_one(world):
    world.prepare(world.random_pairs(6))
    empty = pl.DataFrame(
        schema={
            "pair_id": pl.String,
            "ref_chosen_logps": pl.Float64,
            "ref_rejected_logps": pl.Float64,
            "ref_margin": pl.Float64,
        }
    )
    for split in ("train", "test"):
        write_parquet(world.paths.reference(split), empty.to_arrow())
    write_reference_manifest(world.paths)
    audit.audit(world.run())
    assert found(world)["reference_missing"] == 6
