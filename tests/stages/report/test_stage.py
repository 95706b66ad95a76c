"""The report stage: which runs it finds, what it makes of missing and damaged files, and the page in a browser."""

import json

import polars as pl
import pytest
from written import lineage, write_evaluation, write_reference_manifest

from scoreonce.pipeline.evaluation.summary import evaluation_summary
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import LocalInput, PairCounts, PairsManifest, TokenizerRecord
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import read_json, write_json, write_parquet
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import SPLITS, RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.report import stage as report


def make_run(folder):
    return Run.model_validate(
        {"out": str(folder), "data": {"source": "pairs.jsonl"}, "reference": {"model": "reference"}}
    )


def train(folder, label, steps=5):
    """What `train` leaves behind."""
    training = folder / "train" / label
    (training / "model").mkdir(parents=True)
    lines = [
        {"step": s, "loss": 0.7 - s / 100, "rewards/margins": s / 10, "beta/mean": 0.1, "perf/seconds": 1.0}
        for s in range(1, steps + 1)
    ]
    (training / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pl.DataFrame(
        [
            {"step": s, "pair_id": str(p), "margin": float(s * p), "beta": 0.1, "weight": 1.0, "loss": 0.5}
            for s in range(1, steps + 1)
            for p in range(4)
        ]
    ).write_parquet(training / "steps.parquet")
    manifests.write(training / "lineage.json", lineage(label))
    (training / "run.toml").write_text('out = "x"\n[compute]\ndevice = "cpu"\n')
    return training


def evaluate(folder, label, right=30, wrong=10):
    """What `evaluate` leaves behind."""
    margins = [1.0] * right + [-1.0] * wrong
    count = len(margins)
    pairs = pl.DataFrame(
        {
            "pair_id": [str(i) for i in range(count)],
            "source": [None] * count,
            "chosen_len": [5] * count,
            "rejected_len": [5] * count,
            "policy_chosen_logps": [-9.0] * count,
            "policy_rejected_logps": [-9.0 - m for m in margins],
            "ref_chosen_logps": [-9.0] * count,
            "ref_rejected_logps": [-9.0] * count,
            "chosen_logratios": [0.0] * count,
            "rejected_logratios": [-m for m in margins],
            "margin": margins,
        },
        schema_overrides={"source": pl.String},
    )
    results = folder / "evaluate" / label
    results.mkdir(parents=True)
    pairs.write_parquet(results / "pairs.parquet")
    write_evaluation(results, label, evaluation_summary(pairs))


def page(folder, **options):
    report.report(make_run(folder), **options)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_all_runs_of_the_folder_are_in_the_page(tmp_path, capsys):
    train(tmp_path, "dpo")
    evaluate(tmp_path, "dpo")
    train(tmp_path, "ipo")
    evaluate(tmp_path, "somebody-elses", right=20, wrong=20)
    html = page(tmp_path)
    assert all(f"<bdi>{label}</bdi>" in html for label in ("dpo", "ipo", "somebody-elses"))
    assert "75.0%" in html
    assert "dpo ranks 75.0% of 40 held-out pairs" in html
    assert str(tmp_path / "report.html") in capsys.readouterr().out


def test_labels_choose_among_the_runs(tmp_path):
    train(tmp_path, "dpo")
    train(tmp_path, "ipo")
    assert "<bdi>ipo</bdi>" not in page(tmp_path, labels=["dpo"])
    with pytest.raises(InputError, match="Did you mean 'dpo'"):
        report.report(make_run(tmp_path), labels=["dop"])


def test_two_reports_do_not_write_one_page(tmp_path):
    train(tmp_path, "dpo")
    paths = RunPaths.of(make_run(tmp_path))
    with (
        locked(paths, paths.report, f"the report {paths.report}"),
        pytest.raises(InputError, match=r"report\.html is in use by another process"),
    ):
        report.report(make_run(tmp_path), lock_timeout=0)
    assert not paths.report.exists()


def test_nothing_to_report_names_train(tmp_path):
    with pytest.raises(InputError, match="scoreonce train"):
        report.report(make_run(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_still_trains(tmp_path):
    """Half a line of metrics, the step log in parts, no model."""
    training = train(tmp_path, "dpo")
    (training / "model").rmdir()
    (training / "steps").mkdir()
    (training / "steps.parquet").rename(training / "steps" / "00000001-00000005.parquet")
    with (training / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 6, "lo')
    html = page(tmp_path)
    assert "has not finished" in html
    assert 'id="chart-margin-0"' in html


def test_manifests_and_demo_are_shown(tmp_path):
    train(tmp_path, "dpo")
    paths = RunPaths.of(make_run(tmp_path))
    pairs = PairsManifest(
        config={},
        inputs={"hh.jsonl": LocalInput(size=9, mtime_ns=0, sha256="ab" * 32)},
        tokenizer=TokenizerRecord(name="t", vocab_size=97, digest="d"),
        counts=PairCounts(raw=1234, train=4, test=1, quarantined=0, by_reason={}),
        truncated={},
        boundary_merged=0,
        lengths={},
        files={},
    )
    manifests.write(paths.pairs_manifest, pairs)
    for split in SPLITS:
        write_parquet(paths.reference(split), pl.DataFrame({"pair_id": ["a"]}).to_arrow())
    write_reference_manifest(paths, model="tiny-reference", weights="cd" * 32)
    entry = {"true_reward_mean": 1.5, "true_reward_low": 1.4, "true_reward_high": 1.6, "kl_mean": 0.7}
    samples = [{"prompt": "Once", "text": "upon a time", "reward": 1.0}]
    demo = [{"label": "reference", **entry, "samples": samples}, {"label": "dpo", **entry, "samples": samples}]
    (tmp_path / "demo.json").write_text(json.dumps(demo))
    html = page(tmp_path)
    assert all(text in html for text in ("1,234", "tiny-reference", "cdcdcdcdcdcd…", "upon a time", "1.40 to 1.60"))


def test_demo_entries_of_runs_left_out_are_left_out(tmp_path):
    train(tmp_path, "dpo")
    train(tmp_path, "ipo")
    entry = {"true_reward_mean": 1.5, "true_reward_low": 1.4, "true_reward_high": 1.6, "kl_mean": 0.7, "samples": []}
    (tmp_path / "demo.json").write_text(
        json.dumps([{"label": label, **entry} for label in ("reference", "dpo", "ipo")])
    )
    html = page(tmp_path, labels=["dpo"])
    assert "<bdi>reference</bdi>" in html
    assert "<bdi>ipo</bdi>" not in html


@pytest.mark.parametrize(
    ("damaged", "stage"),
    [
        ("train/dpo/metrics.jsonl", "train"),
        ("train/dpo/lineage.json", "train"),
        ("train/dpo/steps.parquet", "train"),
        ("train/dpo/run.toml", "train"),
        ("evaluate/dpo/summary.json", "evaluate"),
        ("evaluate/dpo/pairs.parquet", "evaluate"),
        ("demo.json", "demo judge"),
    ],
)
def test_a_damaged_file_is_named_with_its_stage(tmp_path, damaged, stage):
    train(tmp_path, "dpo")
    evaluate(tmp_path, "dpo")
    (tmp_path / damaged).write_text("{ this is not it\n")
    with pytest.raises(InputError) as caught:
        report.report(make_run(tmp_path))
    assert damaged in caught.value.where
    assert f"scoreonce {stage}" in caught.value.fix
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("kind", "tree", "stage"),
    [
        ("evaluate/dpo/summary.json", {"format": 1, "accuracy": 0.5}, "evaluate"),
        ("train/dpo/lineage.json", {"format": 9}, "train"),
        ("pairs/manifest.json", {"format": 0}, "prepare"),
        ("reference/manifest.json", {"model": "m"}, "score"),
    ],
)
def test_a_manifest_of_another_version_is_named_with_its_stage(tmp_path, kind, tree, stage):
    train(tmp_path, "dpo")
    (tmp_path / kind).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / kind).write_text(json.dumps(tree))
    with pytest.raises(InputError, match="another version") as caught:
        page(tmp_path)
    assert kind in caught.value.where
    assert f"scoreonce {stage}" in caught.value.fix


def test_results_that_changed_since_evaluate_are_refused(tmp_path):
    train(tmp_path, "dpo")
    evaluate(tmp_path, "dpo")
    path = tmp_path / "evaluate" / "dpo" / "pairs.parquet"
    pl.read_parquet(path).with_columns(margin=-pl.col("margin")).write_parquet(path)
    with pytest.raises(InputError, match="not what `scoreonce evaluate` wrote"):
        page(tmp_path)


def test_a_lineage_of_the_version_before_is_shown(tmp_path):
    training = train(tmp_path, "dpo")
    tree = read_json(training / "lineage.json") | {"format": 1}
    del tree["data"]["config"]
    write_json(training / "lineage.json", tree)
    assert "<bdi>dpo</bdi>" in page(tmp_path)


def test_the_page_in_a_browser(tmp_path, browser):
    """Every chart is drawn under the page's own policy, and text from data stays text."""
    train(tmp_path, "dpo")
    evaluate(tmp_path, "dpo")
    samples = [{"prompt": "Once", "text": "</script><script>document.title = 'taken'</script>", "reward": 1.0}]
    (tmp_path / "demo.json").write_text(
        json.dumps(
            [
                {
                    "label": "dpo",
                    "true_reward_mean": 1.5,
                    "true_reward_low": 1.4,
                    "true_reward_high": 1.6,
                    "kl_mean": 0.7,
                    "samples": samples,
                }
            ]
        )
    )
    html = page(tmp_path)
    drawn = browser.dom(tmp_path / "report.html")
    shown = drawn.partition("<script")[0]  # the script itself has such words in it
    still = html.partition("<script")[0].count("<svg ")  # the accuracy of the one run and its axis, without script
    assert still == 2
    assert shown.count("<svg ") - still == html.count('class="chart"') >= 4
    assert "could not be drawn" not in shown
    assert "<title>taken" not in drawn
