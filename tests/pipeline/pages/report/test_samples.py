"""Samples on the page: figures by label, the same prompts side by side, and nothing of their text as markup."""

import json

import polars as pl
import pytest
from html_page import Page

from scoreonce.pipeline.pages.report.data import ReportData, RunRecord
from scoreonce.pipeline.pages.report.page import render
from scoreonce.pipeline.pages.report.samples import SampleRecord, side_by_side, standings

EVIL = "</div><script>alert('x')</script><img src=https://evil.example/x onerror=alert(1)>"


def record(label, texts, *, prompts=("What is it?", "Who is it?"), shift=0.0, **manifest) -> SampleRecord:
    """One completion per prompt, of a token a word; the sampler's log-prob is `shift` above the reference's."""
    rows = [
        {
            "prompt_id": f"{number:032x}",
            "prompt": prompt,
            "completion": text,
            "completion_ids": [hash(word) % 1000 for word in text.split()],
            "completion_len": len(text.split()),
            "finished": True,
            "sampler_logps": -5.0 + shift,
            "ref_logps": -5.0,
        }
        for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]
    return SampleRecord(label, pl.DataFrame(rows), {"whole_distribution": True, "realigned": None} | manifest)


REFERENCE = record("reference", ["the cat sat here", "nobody at all"])
POLICY = record("dpo", ["the dog sat here", "nobody at all"], shift=2.0)


def page(*samples, label="dpo") -> Page:
    return Page(render(ReportData(runs=(RunRecord(label),), samples=samples)))


def test_words_that_only_one_side_has_are_marked():
    first, second = side_by_side([REFERENCE, POLICY])
    reference, policy = first.answers
    assert (reference.label, policy.label) == ("reference", "dpo")
    assert reference.text == "the <del>cat</del> sat here"
    assert policy.text == "the <ins>dog</ins> sat here"
    assert (policy.logratio, reference.logratio) == (2.0, None)
    assert (policy.same, second.answers[1].same) == (False, True)


def test_with_two_policies_the_reference_is_left_as_it_is():
    other = record("ipo", ["a cat sat here", "nobody at all"])
    first = side_by_side([REFERENCE, POLICY, other])[0]
    assert [answer.text for answer in first.answers] == [
        "the cat sat here",
        "the <ins>dog</ins> sat here",
        "<ins>a</ins> cat sat here",
    ]


def test_texts_with_little_in_common_and_without_a_reference_are_not_marked():
    far = record("far", ["x y z w v u t s", "nobody at all"])
    answer = side_by_side([REFERENCE, far])[0].answers[1]
    assert (answer.marked, answer.same, answer.text) == (False, False, "x y z w v u t s")
    assert side_by_side([far])[0].answers[0].text == "x y z w v u t s"


def test_prompts_that_more_models_answered_come_first():
    lone = record("lone", ["alone", "alone"], prompts=("Other?", "Another?"))
    shifted = SampleRecord("lone", lone.samples.with_columns(prompt_id=pl.lit("f") + pl.col("prompt_id")), {})
    shown = side_by_side([shifted, REFERENCE, POLICY], most=3)
    assert [[answer.label for answer in each.answers] for each in shown] == [["reference", "dpo"]] * 2 + [["lone"]]


def test_standings_say_which_samples_estimate_the_kl():
    cold = record(
        "cold", ["a b", "c d"], shift=1.0, whole_distribution=False, generation={"temperature": 0.5, "top_k": 0}
    )
    greedy = record("greedy", ["a b", "c d"], whole_distribution=False, generation={"do_sample": False})
    found = standings([REFERENCE, POLICY, cold, greedy])
    assert [each.whole for each in found] == [True, True, False, False]
    assert [each.settings for each in found] == ["", "", "temperature 0.5", "most likely token each time"]
    assert found[1].figures.kl == pytest.approx((2.0, 0.0))
    text = page(REFERENCE, POLICY, cold).text
    assert "+2.00 ± 0.00" in text
    assert "† Not of the whole distribution (cold: temperature 0.5)" in text
    assert "†" not in page(REFERENCE, POLICY).text


def test_a_realigned_policy_shows_its_weight():
    text = page(REFERENCE, POLICY, record("dpo-realign-0.5", ["the cow sat here", "no"], realigned=0.5)).text
    assert "Weight of the policy" in text
    assert "dpo-realign-0.5 0.5 2 2 prompts" in text
    assert "Weight of the policy" not in page(REFERENCE, POLICY).text


def test_text_of_samples_cannot_become_markup():
    found = page(record(EVIL, [EVIL, "x"], prompts=(EVIL, "y")), REFERENCE)
    assert found.loads_nothing()
    assert not {tag for tag, _ in found.tags} & {"img"}
    assert sum(tag == "script" for tag, _ in found.tags) == sum(
        tag == "script" for tag, _ in page(REFERENCE, POLICY).tags
    )
    assert "alert('x')" in found.text


def test_without_samples_there_is_no_section():
    assert "Side by side" not in page().text


def test_the_best_of_n_stands_beside_the_policies():
    """Each in its own data: a chart that lost the policies would have the line alone."""
    entry = {"true_reward_mean": 2.0, "true_reward_low": 1.5, "true_reward_high": 2.5, "kl_mean": 0.5}
    demo = ({"label": "reference", **entry}, {"label": "dpo", **entry})
    point = {"n": 2, "reward": 3.0, "low": 2.0, "high": 4.0, "kl_bound": 0.193}
    found = Page(render(ReportData(runs=(RunRecord("dpo"),), demo=demo, best_of_n=(point,))))
    spec = json.loads(found.scripts["charts"])["reward-kl"]
    assert "the best of 1 to 2 completions" in found.text
    assert len(spec["layer"]) == 5
    sources = [json.dumps(layer.get("data", spec.get("data"))) for layer in spec["layer"]]
    assert ["0.193" in source for source in sources] == [True] * 3 + [False] * 2
    assert all("rows" in source for source in sources[3:])


def test_the_way_of_a_policy_leads_from_the_reference_through_its_checkpoints():
    """Two runs, one with two checkpoints: four points of one line, of which the two checkpoints are dots."""

    def entry(reward, kl, **more):
        ends = {"true_reward_low": reward - 0.5, "true_reward_high": reward + 0.5}
        return {"true_reward_mean": reward, "kl_mean": kl, **ends, **more}

    along = [entry(2.5, 0.25, step=7), entry(3.0, 0.75, step=14)]
    demo = (
        entry(2.0, 0.0, label="reference"),
        entry(3.5, 1.5, label="dpo", along=along),
        entry(1.0, 9.0, label="ipo", along=[]),
    )
    found = Page(render(ReportData(runs=(RunRecord("dpo"), RunRecord("ipo")), demo=demo)))
    line, dots, *_ = json.loads(found.scripts["charts"])["reward-kl"]["layer"]
    assert (line["mark"]["type"], dots["mark"]["type"]) == ("line", "point")
    drawn = [(row["label"], row["at"], row["step"], row["kl"], row["mean"]) for row in line["data"]["values"]]
    assert drawn == [
        ("dpo", 0, None, 0.0, 2.0),
        ("dpo", 1, 7, 0.25, 2.5),
        ("dpo", 2, 14, 0.75, 3.0),
        ("dpo", 3, None, 1.5, 3.5),
    ]
    assert [row["step"] for row in dots["data"]["values"]] == [7, 14]
    assert "along training" in found.text


def test_an_empty_completion_has_a_place():
    assert side_by_side([REFERENCE, record("dpo", ["", "nobody at all"])])[0].answers[1].text == ""
