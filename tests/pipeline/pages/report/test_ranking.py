"""What runs are ranked by, which of them are tied, and where judged samples stand against KL."""

import polars as pl
import pytest

from scoreonce.pipeline.pages.ranking import JudgementRecord, leading
from scoreonce.pipeline.pages.report.data import ReportData, RunRecord
from scoreonce.pipeline.pages.report.frontier import frontier
from scoreonce.pipeline.pages.report.page import render
from scoreonce.pipeline.pages.report.samples import SampleRecord
from scoreonce.pipeline.pages.report.verdict import verdict

HALF = 0.1  # of each interval: a difference of two has 0.1 x sqrt 2 = 0.141


def accurate(label, accuracy):
    """A run that was evaluated, as far as the verdict reads it."""
    ends = {"accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.02}
    return RunRecord(label, summary={"accuracy": accuracy, "pairs": 500, **ends})


def earned(label, mean):
    ends = {"true_reward_low": mean - HALF, "true_reward_high": mean + HALF}
    return {"label": label, "true_reward_mean": mean, "kl_mean": 1.0, **ends}


def judged(label, rate=None, *, score=None, against="reference", judge="j", scores=None):
    compared = rate and {"win_rate": {"rate": rate, "low": rate - HALF, "high": rate + HALF}}
    rows = [
        {"label": name, "score": mean, "score_low": mean - HALF, "score_high": mean + HALF}
        for name, mean in (score or {}).items()
    ]
    figures = {"comparison": compared, "scores": rows or None}
    return JudgementRecord(f"{label}-{judge}", label, against, {"model": judge}, figures, scores)


RUNS = (accurate("dpo", 0.9), accurate("ipo", 0.7), accurate("rso", 0.6))


def order(found):
    return [item.run.label for item in found.standings]


def test_a_true_reward_leads_and_not_held_out_accuracy():
    """2.0 is 0.5 above 1.5, more than 0.141; 1.9 is 0.1 below 2.0."""
    demo = (earned("reference", 1.0), earned("dpo", 1.5), earned("ipo", 2.0), earned("rso", 1.9))
    found = verdict(ReportData(runs=RUNS, demo=demo))
    assert order(found) == ["ipo", "rso", "dpo"]
    assert [item.tied for item in found.standings] == [False, True, False]
    assert found.headline == "ipo and rso are tied for the true reward"
    assert found.sentences[0] == "ipo has the highest true reward: 2.00 (1.90 to 2.10); the reference has 1.00."
    assert found.sentences[1] == "rso is tied with it (95% interval of the difference)."
    assert any(sentence.startswith("dpo ranks 90.0%") for sentence in found.sentences)


def test_no_better_than_the_reference_is_said():
    found = verdict(ReportData(runs=RUNS[:1], demo=(earned("reference", 1.45), earned("dpo", 1.5))))
    assert found.headline == "No run is clearly better than the reference"


def test_a_judge_leads_where_there_is_no_true_reward():
    found = verdict(ReportData(runs=RUNS, judgements=(judged("ipo", 0.8), judged("dpo", 0.62))))
    assert order(found) == ["ipo", "dpo", "rso"]  # rso was not judged
    assert found.headline == "ipo has the highest win rate against the reference"
    assert found.sentences[0] == "ipo has the highest win rate against the reference: 80.0% (70.0% to 90.0%)."
    lost = verdict(ReportData(runs=RUNS, judgements=(judged("ipo", 0.55),)))
    assert lost.headline == "No run is clearly better than the reference"
    other = verdict(ReportData(runs=RUNS, judgements=(judged("ipo", 0.55, against="dpo"),)))
    assert other.headline == "No run is clearly better than dpo"


def test_the_judge_that_knows_most_runs_leads():
    """Rates by different judges, or against different samples, are not comparable."""
    given = [judged("dpo", 0.9, judge="a"), judged("ipo", 0.6, judge="b"), judged("dpo", 0.7, judge="b")]
    assert leading((), given, ["dpo", "ipo"]).grades.keys() == {"dpo", "ipo"}
    assert leading((), given, ["dpo", "ipo"]).grades["dpo"].mean == 0.7
    assert leading((), [judged("other", 0.9)], ["dpo"]) is None


def test_accuracy_leads_without_either_and_says_so():
    found = verdict(ReportData(runs=RUNS))
    assert order(found) == ["dpo", "ipo", "rso"]
    assert found.measure is None
    assert "Ranked by held-out accuracy" in render(ReportData(runs=(RunRecord("dpo"),)))


def samples(label, logratio, realigned=None):
    """Two prompts with two completions each, `logratio` nats from the reference on average."""
    table = pl.DataFrame(
        {
            "prompt_id": ["p", "p", "q", "q"],
            "sampler_logps": [-10.0 + logratio - 1, -10.0 + logratio + 1, -10.0 + logratio, -10.0 + logratio],
            "ref_logps": [-10.0] * 4,
            "completion_len": [5] * 4,
        }
    )
    return SampleRecord(label, table, {"realigned": realigned, "whole_distribution": True})


def test_judged_samples_stand_against_kl_with_best_of_n_and_realignment():
    """Best of 1 of scores 1, 3 and 2, 4: 2.5; best of 2: (3 + 4) / 2 = 3.5."""
    scores = pl.DataFrame(
        {"prompt_id": ["p", "p", "q", "q"], "label": ["reference"] * 4, "score": [1.0, 3.0, 2.0, 4.0]}
    )
    given = [
        judged("dpo", score={"dpo": 3.0, "reference": 2.5}, scores=scores),
        judged("dpo-realign-0.5", score={"dpo-realign-0.5": 2.8, "reference": 2.5}),
        judged("dpo-realign-2", score={"dpo-realign-2": 3.1}),
    ]
    sampled = [
        samples("dpo", 2.0),
        samples("dpo-realign-0.5", 0.5, 0.5),
        samples("dpo-realign-2", 6.0, 2.0),
        samples("reference", 0.0),
    ]
    found = frontier(sampled, given)
    at = {entry["label"]: (entry["kl_mean"], entry["true_reward_mean"]) for entry in found.entries}
    assert at == {
        "dpo": (2.0, 3.0),
        "dpo-realign-0.5": (0.5, 2.8),
        "dpo-realign-2": (6.0, 3.1),
        "reference": (0.0, 2.5),
    }
    assert found.lines == [["reference", "dpo-realign-0.5", "dpo", "dpo-realign-2"]]
    assert [point["n"] for point in found.best_of_n] == [1, 2]
    assert [point["reward"] for point in found.best_of_n] == pytest.approx([2.5, 3.5])
    assert frontier(sampled, []) is None
