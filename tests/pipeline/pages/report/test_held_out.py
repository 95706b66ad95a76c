"""The report's curves of held-out figures while training."""

import altair as alt
import polars as pl
import pytest

from scoreonce.pipeline.pages.report.data import ReportData, RunRecord
from scoreonce.pipeline.pages.report.held_out import held_out_curves, held_out_standings
from scoreonce.pipeline.pages.report.page import render


def run(label, losses, every=10, **more):
    rows = [
        {
            "step": every * number,
            "pairs": 8,
            "loss": loss,
            "accuracy": 0.5 + number / 10,
            "margin": float(number),
            "chosen_logratio_per_token": None,
            "rejected_logratio_per_token": -0.125,
            "cross_entropy_increase": 0.25,
            "entropy_per_token": 1.5,
            "seconds": 1.0,
        }
        for number, loss in enumerate(losses)
    ]
    return RunRecord(label, held_out=pl.DataFrame(rows), **more)


RUNS = (run("a", [0.7, 0.5, 0.6]), RunRecord("bare"), run("b", [0.7, 0.65], every=15))


def test_all_runs_are_in_a_chart_and_a_diamond_marks_the_best_step():
    charts = {chart.name: chart.spec for chart in held_out_curves(RUNS)}
    assert "held_out_chosen_logratio_per_token" not in charts  # no run has it
    loss = charts["held_out_loss"]
    assert loss["datasets"]["rows"] == [
        {"step": 0, "r0": 0.7, "r2": 0.7},
        {"step": 10, "r0": 0.5, "r2": None},
        {"step": 15, "r0": None, "r2": 0.65},
        {"step": 20, "r0": 0.6, "r2": None},
    ]
    marks = [layer["data"]["values"] for layer in loss["layer"] if layer["mark"].get("shape") == "diamond"]
    assert marks == [[{"step": 10, "best": 0.5}], [{"step": 15, "best": 0.65}]]
    # By loss in every chart.
    assert [
        layer["data"]["values"][0]["step"]
        for layer in charts["held_out_accuracy"]["layer"]
        if layer["mark"].get("shape") == "diamond"
    ] == [10, 15]


@pytest.mark.parametrize("name", ["held_out_loss", "held_out_accuracy"])
def test_vega_lite_accepts_the_charts(name):
    charts = {chart.name: chart.spec for chart in held_out_curves(RUNS)}
    alt.Chart.from_dict(charts[name], validate=True)


def test_the_metric_is_that_of_the_run():
    by_settings = run("a", [0.7, 0.5, 0.6], settings={"evaluate": {"metric": "accuracy"}})
    ended = {"metric": "margin", "policy_step": 20, "stopped": "patience"}
    by_lineage = run("b", [0.7, 0.5, 0.6], lineage={"held_out": ended})
    first, second = held_out_standings([by_settings, by_lineage])
    assert (first.metric, first.best["step"], first.policy_step, first.stopped) == ("accuracy", 20, None, False)
    assert (second.metric, second.policy_step, second.stopped) == ("margin", 20, True)


def test_the_page_has_the_table():
    page = render(ReportData(runs=RUNS))
    assert '<section id="held-out">' in page
    assert "10 <small>best by loss</small>" in page
    assert 'id="chart-held_out_loss"' in page
    assert '<section id="held-out">' not in render(ReportData(runs=RUNS[1:2]))
