"""The page: what it says, what it warns of, and that nothing in the data can become markup, code or a request."""

import base64
import hashlib
import json
import re

import polars as pl
import pytest
from html_page import Page

from scoreonce.pipeline.evaluation.summary import evaluation_summary
from scoreonce.pipeline.pages.charts import PALETTE
from scoreonce.pipeline.pages.report.charts import MAX_POINTS, accuracy_strips, bands_of, training_curves
from scoreonce.pipeline.pages.report.data import ReportData, RunRecord, metrics_table, step_bands
from scoreonce.pipeline.pages.report.lineage import settings
from scoreonce.pipeline.pages.report.page import render
from scoreonce.pipeline.pages.report.verdict import verdict
from scoreonce.pipeline.pages.report.warnings import run_warnings

NAN = float("nan")
EVIL = "</script><script>alert('x')</script><!--<img src=https://evil.example/x onerror=alert(1)>"


def held_out(margins, chosen=0.5, source="a"):
    """Evaluation pairs with these margins; each chosen log-ratio is `chosen`, lengths alternate."""
    count = len(margins)
    return pl.DataFrame(
        {
            "pair_id": [str(i) for i in range(count)],
            "source": [source] * count,
            "chosen_len": pl.Series([10 + i % 2 for i in range(count)], dtype=pl.Int32),
            "rejected_len": pl.Series([11 - i % 2 for i in range(count)], dtype=pl.Int32),
            "policy_chosen_logps": [chosen - 20.0] * count,
            "policy_rejected_logps": [chosen - m - 20.0 for m in margins],
            "ref_chosen_logps": [-20.0] * count,
            "ref_rejected_logps": [-20.0] * count,
            "chosen_logratios": [chosen] * count,
            "rejected_logratios": [chosen - m for m in margins],
            "margin": margins,
        }
    )


def steps_table(steps, margin, beta=0.1):
    """Four pairs a step, with margins up to `margin` x the step."""
    rows = [
        {"step": s, "margin": margin * s * k / 4, "beta": beta * k if isinstance(beta, float) else None, "weight": 1.0}
        for s in range(1, steps + 1)
        for k in range(1, 5)
    ]
    return pl.DataFrame(rows, schema_overrides={"beta": pl.Float64})


def record(label="dpo", *, right=80, wrong=20, steps=40, chosen=0.5, margin=0.1, **overrides):
    """A healthy run, unless told otherwise."""
    metrics = [
        {
            "step": s,
            "loss": 0.69 - s / 200,
            "grad_norm": 2.0,
            "learning_rate": 1e-6,
            "rewards/chosen": 0.1,
            "rewards/margins": s / 100,
            "rewards/accuracies": 0.8,
            "perf/seconds": 3.0,
            "perf/pairs_per_second": 21.0,
            "perf/tokens_per_second": 1000.0,
            "perf/peak_memory": 1024.0**3 * s / steps,
        }
        for s in range(1, steps + 1)
    ]
    pairs = held_out([1.0] * right + [-1.0] * wrong, chosen)
    values = {
        "label": label,
        "metrics": metrics_table(metrics),
        "bands": step_bands(steps_table(steps, margin).lazy(), 160).collect(),
        "lineage": {"label": label, "method": {"name": label, "hyperparameters": {"beta": 0.1}}, "train": {"seed": 7}},
        "pairs": pairs,
        "summary": evaluation_summary(pairs),
    }
    return RunRecord(**values | overrides)


def titles(*runs, **parts):
    return {(finding.run, finding.title) for kind in run_warnings(ReportData(runs=runs, **parts)) for finding in kind}


# ---- what the page says ----


def test_page_holds_every_run_and_its_numbers():
    page = Page(render(ReportData(runs=(record("dpo"), record("beta_dpo", right=90, wrong=10)))))
    assert "dpo" in page.text
    assert "beta_dpo ranks held-out pairs best" in page.text
    assert "90.0%" in page.text
    assert "80.0%" in page.text
    assert "82.6% to 94.5%" in page.text  # Wilson's interval of 90 in 100
    assert "0:02:00" in page.text  # 40 steps of 3 seconds
    assert {"chart-loss", "chart-rewards_margins", "chart-margin-0", "chart-margin-1"} <= {
        a.get("id") for _, a in page.tags
    }


def test_every_chart_has_its_place_and_every_place_its_chart():
    data = ReportData(
        runs=(record("dpo"), record("ipo")), demo=(demo_entry("dpo"), demo_entry("reference", reward=0.0))
    )
    page = Page(render(data))
    places = {a["id"].removeprefix("chart-") for _, a in page.tags if (a.get("id") or "").startswith("chart-")}
    assert places == set(json.loads(page.scripts["charts"])) != set()


def demo_entry(label, reward=1.0, text="once upon"):
    return {
        "label": label,
        "true_reward_mean": reward,
        "true_reward_low": reward - 0.1,
        "true_reward_high": reward + 0.1,
        "kl_mean": 2.0,
        "samples": [{"prompt": "The old", "text": text, "reward": reward}],
    }


def test_demo_shows_true_reward_kl_and_samples():
    html = render(ReportData(runs=(record("dpo"),), demo=(demo_entry("reference", 0.25), demo_entry("dpo", 1.75))))
    page = Page(html)
    assert "dpo has the highest true reward: 1.75 (1.65 to 1.85); the reference has 0.25" in page.text
    assert "once upon" in page.text
    assert "chart-reward-kl" in html
    assert "chart-reward-kl" not in render(ReportData(runs=(record("dpo"),)))


def test_one_run_without_evaluation_or_step_log_gets_notes():
    bare = record(pairs=None, summary={}, bands=pl.DataFrame())
    page = Page(render(ReportData(runs=(bare,))))
    assert "1 run trained, not evaluated yet" in page.text
    assert "scoreonce evaluate" in page.text
    assert "No per-pair step log" in page.text


def test_a_run_with_nothing_at_all_still_gives_a_page():
    page = Page(render(ReportData(runs=(RunRecord("begun", finished=False),))))
    assert "begun" in page.text
    assert "No training metrics" in page.text


def test_many_runs_share_the_palette():
    page = Page(render(ReportData(runs=tuple(record(f"run{i:02d}", steps=3) for i in range(PALETTE + 2)))))
    assert all(f"run{i:02d}" in page.text for i in range(PALETTE + 2))
    assert f"--run-{PALETTE}" not in page.scripts["charts"]


def test_completion_only_evaluation_has_nothing_to_rank():
    pairs = held_out([1.0]).with_columns(margin=pl.lit(None, pl.Float64))
    page = Page(render(ReportData(runs=(record(pairs=pairs, summary=evaluation_summary(pairs)),))))
    assert "no held-out pairs to rank" in page.text


def test_sources_are_compared_where_there_are_several():
    pairs = pl.concat([held_out([1.0] * 3 + [-1.0]), held_out([1.0] * 4, source="web <b>")]).with_columns(
        pair_id=pl.int_range(pl.len()).cast(pl.String)
    )
    page = Page(render(ReportData(runs=(record(pairs=pairs, summary=evaluation_summary(pairs)),))))
    assert "By source" in page.text
    assert "web <b>" in page.text
    assert "75.0%" in page.text


def test_the_cost_of_each_run_is_shown_and_can_be_saved():
    """40 steps of 3 seconds at 1,000 tokens a second: 120,000 tokens. Memory peaks at 1 GiB in the last step."""
    page = Page(render(ReportData(runs=(record("dpo"), RunRecord("evaluated only")))))
    cost = page.text.partition("Peak memory")[2].partition("Of training steps alone")[0]
    assert cost.split() == ["dpo", "40", "0:02:00", "21", "1,000", "120,000", "1.0", "GiB"]
    saved = {a["download"]: a["href"] for tag, a in page.tags if "download" in a}
    assert saved.keys() == {"results.csv", "charts.json"}
    table = base64.b64decode(saved["results.csv"].partition("base64,")[2]).decode().splitlines()
    assert table[0].startswith("run,tied,accuracy,accuracy_low,accuracy_high,")
    assert table[1].startswith("dpo,False,0.8,")
    charts = json.loads(base64.b64decode(saved["charts.json"].partition("base64,")[2]))
    assert charts["series"] == {"r0": "dpo", "r1": "evaluated only"}
    assert charts["charts"]["loss"]["rows"][0].keys() == {"step", "r0"}


# ---- nothing in the data becomes markup, code or a request ----


def evil_page():
    run = record(EVIL, lineage={"train": {"note": EVIL}}, settings={"train": {"x": EVIL}})
    pairs = pl.concat([run.pairs, held_out([1.0], source=EVIL).with_columns(pair_id=pl.lit("z"))])
    entry = demo_entry(EVIL, text=EVIL)
    entry["samples"][0]["prompt"] = EVIL
    manifest = {
        "inputs": {EVIL: {"sha256": "a" * 64}},
        "counts": {"raw": 1, "by_reason": {EVIL: 1}},
        "tokenizer": {"name": EVIL},
    }
    run = record(EVIL, lineage=run.lineage, settings=run.settings, pairs=pairs, summary=evaluation_summary(pairs))
    return render(
        ReportData(
            runs=(run, record("dpo", lineage={"train": {"note": "y"}})),
            demo=(entry,),
            title=EVIL,
            made=EVIL,
            pairs_manifest=manifest,
            reference_manifest={"model": EVIL},
        )
    )


def test_text_from_data_is_text_everywhere():
    html = evil_page()
    page = Page(html)
    assert [tag for tag, _ in page.tags if tag in ("script", "img", "iframe", "object", "link")] == ["script", "script"]
    assert html.count("<script") == html.count("</script>") == 2
    assert "<!--" not in html
    assert page.text.count("<img src=https://evil.example/x onerror=alert(1)>") >= 8  # read as words
    assert "</script>" not in page.scripts["charts"]
    assert EVIL in json.dumps(json.loads(page.scripts["charts"]), ensure_ascii=False)


def test_the_page_loads_nothing_and_runs_only_its_own_script():
    page = Page(evil_page())
    assert page.loads_nothing()
    assert '"url":' not in page.scripts["charts"]


def test_the_policy_admits_exactly_the_script_of_the_page():
    html = render(ReportData(runs=(record(),)))
    script = html.rpartition("<script>")[2].partition("</script>")[0]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in html


def test_not_a_number_is_null_in_the_charts():
    metrics = metrics_table(
        [
            {"step": 1, "loss": 0.5, "grad_norm": NAN},
            {"step": 2, "loss": NAN, "grad_norm": float("inf")},
            {"step": 3, "loss": None, "grad_norm": 1.0},
        ]
    )
    html = render(ReportData(runs=(record(metrics=metrics), record("other")), demo=(demo_entry("dpo", NAN),)))
    specs = json.loads(Page(html).scripts["charts"], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    rows = specs["loss"]["datasets"]["rows"]
    assert [row["r0"] for row in rows[:3]] == [0.5, None, None]


# ---- verdict ----


def test_runs_that_cannot_be_distinguished():
    found = verdict(ReportData(runs=(record("dpo", right=80, wrong=20), record("ipo", right=79, wrong=21))))
    assert found.headline == "dpo is ahead, but not clearly"
    assert "ipo is tied with it" in found.sentences[1]
    assert found.standings[1].behind["difference"] == pytest.approx(-0.01)


def test_equal_runs_have_no_winner():
    assert verdict(ReportData(runs=(record("dpo"), record("ipo")))).headline == "No run is clearly best"


def test_chance_is_called_chance():
    found = verdict(ReportData(runs=(record("dpo", right=52, wrong=48),)))
    assert found.headline == "No run is clearly better than chance"


def test_intervals_stand_on_one_axis_that_holds_one_half():
    """80 and 60 of 100: Wilson's ends 0.711 to 0.867 and 0.502 to 0.691; from 0.5 to 0.867, with 4% room."""
    runs = (record("dpo"), record("ipo", right=60, wrong=40), RunRecord("not evaluated"))
    axis, strips = accuracy_strips(runs)
    assert [*strips] == ["dpo", "ipo"]
    assert strips["dpo"]["datasets"]["rows"][0] == pytest.approx({"low": 0.7112, "at": 0.8, "high": 0.8666}, abs=1e-4)
    domains = {tuple(layer["encoding"]["x"]["scale"]["domain"]) for spec in strips.values() for layer in spec["layer"]}
    domains.add(tuple(axis["encoding"]["x"]["scale"]["domain"]))
    ((low, high),) = domains
    assert (low, high) == pytest.approx((0.48534, 0.88126), abs=1e-4)


# ---- verdicts ----


def document_of(state, severity, *, advice="raise train.learning_rate", **finding):
    """A document of `pipeline.verdict.text`, with one finding."""
    entry = {"name": state, "seen": f"seen of {state}", "holds": "x is below", "threshold": -0.5, "unit": "nats"}
    entry |= {"source": "a paper", "advice": [{"key": "k", "direction": "raise", "text": advice}]}
    return {"state": state, "severity": severity, "headline": state, "findings": [entry | finding]}


def test_each_run_has_its_verdict_best_first_and_each_rule_stands_once():
    still, good = document_of("did_nothing", "serious"), document_of("learnt", "none", advice="nothing")
    runs = (record("a", verdict=still, right=50, wrong=50), record("b", verdict=good), record("c", verdict=good))
    html = render(ReportData(runs=runs))
    text = " ".join(Page(html).text.split())
    assert text.index("b learnt seen of learnt To do: nothing.") < text.index(
        "a did_nothing seen of did_nothing To do:"
    )
    assert html.count("<code>learnt</code>") == html.count("<code>did_nothing</code>") == 1
    assert "Holds where x is below \N{MINUS SIGN}0.5 nats. Source: a paper." in text


def test_a_run_that_ranks_best_and_is_doubted_is_doubted_at_the_top():
    said = verdict(ReportData(runs=(record("a", verdict=document_of("collapsed", "serious")),))).sentences
    assert "Verdict on a: collapsed." in said
    fine = verdict(ReportData(runs=(record("a", verdict=document_of("learnt", "none")),))).sentences
    assert not any("Verdict" in sentence for sentence in fine)


def test_a_page_without_verdicts_has_no_place_for_them():
    assert 'id="verdicts"' not in render(ReportData(runs=(record(),)))


def test_numbers_in_a_verdict_cannot_become_markup():
    html = render(ReportData(runs=(record(verdict=document_of("learnt", "none", seen=EVIL)),)))
    assert EVIL not in html


# ---- warnings ----


def test_a_healthy_run_has_no_warning():
    assert titles(record()) == set()


def test_an_unfinished_run_is_warned_of_once():
    """Where its verdict does not say so: that of an earlier policy."""
    assert titles(record(finished=False)) == {("dpo", "Training has not finished")}
    assert titles(record(finished=False, verdict={"state": "unfinished"})) == set()


def test_many_ties():
    pairs = held_out([1.0] * 70 + [0.0] * 30)
    assert titles(record(pairs=pairs, summary=evaluation_summary(pairs))) == {("dpo", "Many margins are exactly zero")}


def metrics_with(**columns):
    steps = len(next(iter(columns.values())))
    return metrics_table(
        [{"step": i + 1, **{name: values[i] for name, values in columns.items()}} for i in range(steps)]
    )


@pytest.mark.parametrize(
    ("title", "columns"),
    [
        ("The gradient norm spikes", {"grad_norm": [1.0, 1.0, 500.0, 1.0]}),
        ("Most pairs are filtered out", {"selection/kept": [0.3, 0.4]}),
    ],
)
def test_warnings_of_the_metrics(title, columns):
    assert titles(record(metrics=metrics_with(**columns))) == {("dpo", title)}


def test_runs_that_cannot_be_compared():
    def lineage(key, files):
        return {"reference": {"store_key": key}, "data": {"files": {"train.parquet": files}}}

    found = titles(record("dpo", lineage=lineage("k", "one")), record("ipo", lineage=lineage("k2", "two")))
    assert found == {("", "The runs used different training pairs"), ("", "The runs used different reference scores")}


def test_an_evaluation_under_an_older_reference():
    old = record(summary=record().summary | {"reference": {"store_key": "old"}})
    assert titles(old, reference_manifest={"store_key": "new"}) == {("dpo", "Evaluated under another reference")}


def test_an_evaluation_of_an_older_policy():
    old = record(summary=record().summary | {"training_identity": "old"}, lineage={"identity": "new"})
    assert titles(old) == {("dpo", "Trained again since its evaluation")}


# ---- data behind the charts ----


def test_curves_are_thinned_to_means_of_groups():
    run = record(metrics=metrics_table([{"step": s, "loss": float(s)} for s in range(1, 1001)]))
    rows = training_curves([run])[0].spec["datasets"]["rows"]
    assert len(rows) <= MAX_POINTS
    assert (rows[0]["step"], rows[0]["r0"]) == (7, 4.0)  # 1000 / 160 steps, rounded up, make a group


def losses(label, first, last):
    return record(label, metrics=metrics_with(loss=[first, (first + last) / 2, last]))


def test_a_run_that_would_flatten_the_others_has_a_chart_of_its_own():
    """Losses of 0.5 to 0.7, and of 5 to 25 in between."""
    runs = [losses("dpo", 0.7, 0.5), losses("ipo", 25.0, 5.0), losses("rso", 0.69, 0.6)]
    shared, own = training_curves(runs)
    assert (shared.name, shared.title) == ("loss", "Loss")
    assert shared.spec["datasets"]["rows"][0].keys() == {"step", "r0", "r2"}
    assert (own.name, own.title) == ("loss-1", "Loss of ipo")
    assert own.caption.startswith("On a scale of its own.")
    assert own.spec["datasets"]["rows"][0].keys() == {"step", "r1"}


def test_a_spike_of_the_gradient_norm_is_drawn_on_a_logarithmic_axis():
    (spiked,) = training_curves([record(metrics=metrics_with(grad_norm=[1.0, 1.5, 400.0, 1.2]))])
    (calm,) = training_curves([record(metrics=metrics_with(grad_norm=[1.0, 1.5, 4.0, 1.2]))])
    kinds = [
        {layer["encoding"]["y"]["scale"].get("type") for layer in each.spec["layer"][:-1]} for each in (spiked, calm)
    ]
    assert kinds == [{"log"}, {None}]


def test_margins_that_would_flatten_the_others_have_a_scale_of_their_own():
    """Four pairs a step, up to 4 nats in steps 1 to 40, and up to 4000."""
    charts = bands_of([record("dpo"), record("ipo", margin=100.0), record("rso", margin=0.09)], "margin")
    ends = {i: chart.spec["layer"][0]["encoding"]["y"]["scale"]["domain"][1] for i, chart in charts}
    assert ends[0] == ends[2] < 5
    assert ends[1] > 1000
    assert [chart.caption for _, chart in charts] == ["", "On a scale of its own.", ""]


def test_text_in_charts_is_large_enough_and_every_chart_has_both_axes():
    demo = (demo_entry("reference", 0.0), demo_entry("dpo"))
    points = ({"n": 1, "reward": 0.0, "low": 0.0, "high": 0.0, "kl_bound": 0.0},)
    page = Page(render(ReportData(runs=(record("dpo"), record("ipo")), demo=demo, best_of_n=points)))
    for name, spec in json.loads(page.scripts["charts"]).items():
        sizes = re.findall(r'"(?:labelF|titleF|f)ontSize": ([\d.]+)', json.dumps(spec))
        assert sizes, name
        assert min(map(float, sizes)) >= 11, name
        for channel in ("x", "y"):
            axes = [
                layer["encoding"][channel].get("axis", {}) for layer in spec["layer"] if channel in layer["encoding"]
            ]
            assert axes, name
            assert None not in axes, name


def test_a_constant_beta_is_not_drawn():
    assert bands_of([record()], "beta") != []  # 0.1 x 1..4 in each step
    constant = record(bands=step_bands(steps_table(4, 1.0).with_columns(beta=pl.lit(0.1)).lazy(), 10).collect())
    assert bands_of([constant], "beta") == []
    assert len(bands_of([constant], "margin")) == 1


def test_settings_that_differ_come_first():
    first, second = (
        record("a", lineage={"train": {"seed": 1, "lr": 5e-7}}),
        record("b", lineage={"train": {"seed": 2, "lr": 5e-7}}),
    )
    rows = settings([first, second])
    assert [(row.name, row.values, row.differs) for row in rows] == [
        ("train.seed", ("1", "2"), True),
        ("train.lr", ("5e-7", "5e-7"), False),
    ]
