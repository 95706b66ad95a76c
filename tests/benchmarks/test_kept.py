"""Trainings on real text are kept, and trained once."""

import sys
from pathlib import Path

import polars as pl
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "evidence"))

import over_pairs
import page
import real_audit
import real_page
import real_text
from audit_helps import planned
from kept import READ, Kept, digest, latest

from scoreonce.pipeline.evaluation.intervals import Interval
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.compare.plan import plan

ROWS = [{"prompt": "p", "chosen": "c", "rejected": "r"}]


def evaluated(margin=1.0):
    """The evaluation of two pairs."""
    return pl.DataFrame({"pair_id": ["a", "b"], "prompt_id": ["0", "f"], **dict.fromkeys(READ[2:], margin)})


def test_trainings_of_another_model_or_of_other_pairs_stay_beside(tmp_path):
    file = tmp_path / "kept.parquet"
    own, other, more = Kept(file, "m", "1"), Kept(file, "n", "1"), Kept(file, "m", "2")
    assert own.table() is None
    own.add(evaluated(0.5), {"method": "dpo", "seed": 0})
    other.add(evaluated(), {"method": "dpo", "seed": 1})
    assert own.has(method="dpo", seed=0)
    assert not own.has(method="dpo", seed=1)
    assert not more.has(method="dpo", seed=0)
    assert own.table()["margin"].to_list() == [0.5, 0.5]
    assert len(pl.read_parquet(file)) == 4


def test_other_rows_have_another_digest():
    assert digest(ROWS, []) == digest(ROWS, []) != digest(ROWS, ROWS)


def test_what_is_kept_is_not_trained_again(tmp_path, monkeypatch):
    """Two methods at two rates; the second command goes on after the first, which was stopped in the third training."""
    trained = []

    def compare(run):
        (candidate,), seeds = plan(run).candidates, plan(run).seeds
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(candidate.name)
        for seed in seeds:
            paths = RunPaths.of(candidate.trial(run, seed))
            paths.evaluation_pairs.parent.mkdir(parents=True)
            evaluated(float(seed)).drop("prompt_id").write_parquet(paths.evaluation_pairs)
        of = {"candidate": candidate.name, "seed": list(seeds), "seconds": 3.0}
        paths.trials.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(of).write_parquet(paths.trials)
        paths.pairs("test").parent.mkdir(parents=True, exist_ok=True)
        twice = pl.DataFrame({"pair_id": ["a", "b", "a"], "prompt_id": ["0", "f", "0"]})
        twice.write_parquet(paths.pairs("test"))

    monkeypatch.setattr(real_text, "compare", compare)
    run = real_text.prepared(tmp_path, (ROWS, ROWS), tmp_path / "model", 2)
    run = run.replace({"compare.methods": ["dpo", "minor_dpo"]})
    kept = Kept(tmp_path / "kept.parquet", "m", "1")
    with pytest.raises(KeyboardInterrupt):
        real_text.trained(run, kept)
    assert real_page.figures(kept.table())["method"].to_list() == ["dpo"] * 4
    assert len(kept.table()) == 8  # two pairs of each
    trained.append("stopped")
    real_text.trained(run, kept)
    real_text.trained(run, kept)
    cells = [f"{method}-learning_rate{rate}" for method in ("dpo", "minor_dpo") for rate in ("2e-05", "8e-05")]
    assert [*trained[:2], *trained[3:]] == cells
    each = real_page.figures(kept.table())
    assert each.select("seed", "accuracy_validation", "accuracy_test").rows() == [(0, 0.5, 0.5), (1, 1.0, 1.0)] * 4
    assert "8 trainings, 0 minutes" in "\n".join(real_page.section("hh", kept.table()))


def test_the_study_of_the_audit_is_reported_once_all_of_it_is_kept(tmp_path):
    """Of two held-out pairs, one is of the test split."""
    kept = Kept(tmp_path / "kept.parquet", "m", "1")
    counts = {"flagged": 1, "planted": 1, "planted_flagged": 1, "pairs": 2, "seconds": 60.0}
    pairs = evaluated().with_columns(**{key: pl.lit(value) for key, value in counts.items()})
    for cleaning in planned(1)[:-1]:
        kept.add(pairs, cleaning._asdict(), [*counts])
    assert "18 of 19 trainings are done" in real_audit.reported(kept.table(), 1)[0]
    kept.add(pairs, planned(1)[-1]._asdict(), [*counts])
    said = real_audit.reported(kept.table(), 1)
    assert said[0].startswith("m, one epoch, 1 seeds; 1 test pairs. 19 trainings, 19 minutes of training on")
    assert "100.0% / 100.0% / 100.0%" in said[4]


@pytest.mark.parametrize(("file", "made"), [(page.PAGE, real_page), (real_audit.PAGE, real_audit)])
def test_the_pages_on_real_text_are_what_the_tables_on_disk_give(file, made):
    text = file.read_text(encoding="utf-8")
    assert text.partition(made.START)[2].partition(page.END)[0] == made.generated()


def test_the_last_pairs_of_a_model_are_shown(tmp_path):
    file = tmp_path / "kept.parquet"
    assert latest(file, "m") is None
    for model, data in (("m", "1"), ("m", "2"), ("n", "1")):
        Kept(file, model, data).add(evaluated(), {"seed": 0})
    assert latest(file, "m")["data"].to_list() == ["2", "2"]
    assert latest(file, "o") is None


def ranked(margins, prompts):
    """Held-out pairs with these margins, of these prompts."""
    ids = [str(number) for number in range(len(margins))]
    return pl.DataFrame({"pair_id": ids, "prompt_id": prompts, "margin": margins}).with_columns(
        **dict.fromkeys(READ[3:], pl.lit(1.0))
    )


def test_intervals_are_over_prompts_for_the_seeds_that_were_trained():
    """Two seeds rank 4 pairs of 2 prompts: means 1, 1, 0, 0.5, so 5/8. Sums by prompt of what is above that are 3/4 and
    -3/4, so the variance is 2 · 9/16 / 16 · 2.
    """
    seeds = [ranked([1.0, 1.0, -1.0, 1.0], list("aabb")), ranked([1.0, 1.0, -1.0, -1.0], list("aabb"))]
    found, half = over_pairs.accuracy(seeds), 1.95996 * (9 / 64) ** 0.5
    assert (found.mean, found.low, found.high) == pytest.approx((5 / 8, 5 / 8 - half, 5 / 8 + half), abs=1e-4)
    assert over_pairs.difference(seeds, seeds) == Interval(0.0, 0.0, 0.0)
    wrong = [ranked([-1.0] * 4, list("aabb"))] * 2
    gap = over_pairs.difference(seeds, wrong)
    assert (gap.mean, gap.low) == pytest.approx((5 / 8, 5 / 8 - half), abs=1e-4)
