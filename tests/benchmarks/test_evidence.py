"""What benchmarks/evidence concludes from trainings: hand-worked differences, areas and verdicts; and that it runs."""

import json
import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks" / "evidence"
sys.path.append(str(FOLDER))

import page  # noqa: E402
import paired  # noqa: E402
from claims import CLAIMS  # noqa: E402
from paired import Comparison  # noqa: E402
from verdicts import COMPARISONS  # noqa: E402
from world import SMOKE, Size, World  # noqa: E402


class Invented:
    """Trials that are all done, with numbers drawn from a seed."""

    def __init__(self, names):
        draw = random.Random(0)
        keys = {each.trial.key for name in names for each in CLAIMS[name].planned(2)}
        measures = ("validation_reward", "test_reward", "test_kl", "cpu_seconds")
        self.done = {key: {"key": key, "failure": "", **{m: draw.uniform(0, 9) for m in measures}} for key in keys}

    def reference(self):
        return {"test_reward": 2.0}


def rows(**columns):
    return pl.DataFrame({"flips": 0.0, "part": "all", **columns}, strict=False)


def test_every_claim_has_comparisons_and_as_many_candidates_for_each_arm():
    assert CLAIMS.keys() == COMPARISONS.keys()
    for name, claim in CLAIMS.items():
        for flips in claim.flips:
            assert len({len(candidates) for candidates in claim.arms(flips).values()}) == 1, name


def test_the_interval_is_students():
    """Values 1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.303, so 2 ± 4.303 / √3 = 2 ± 2.484; t = 2√3, p = 0.0742."""
    found = Comparison("", 1, (1.0, 2.0, 3.0))
    assert (found.interval.low, found.interval.high) == pytest.approx((-0.484, 4.484), abs=1e-3)
    assert found.p == pytest.approx(0.0742, abs=1e-4)


def test_seeds_to_tell():
    """((1.96 + 0.8416) * 1 / 2)^2 = 1.96, so 2; of (0, 1, -1), with mean 0, there is no number."""
    assert Comparison("", 1, (1.0, 2.0, 3.0)).seeds_to_tell == 2
    assert Comparison("", 1, (0.0, 1.0, -1.0)).seeds_to_tell is None


def test_holm_multiplies_the_smallest_p_by_the_count_and_never_falls():
    """p = 0.0742 of (1, 2, 3) and about 2e-4 of (10, 10.2, 9.8) twice: times 3, times 2 but no less, times 1."""
    sure, unsure = Comparison("", 1, (10.0, 10.2, 9.8)), Comparison("", 1, (1.0, 2.0, 3.0))
    first, second, third = paired.adjusted([unsure, sure, sure])
    assert first == pytest.approx(unsure.p)
    assert second == third == pytest.approx(3 * sure.p)


@pytest.mark.parametrize(
    ("values", "sign", "expected"),
    [
        ([(10.0, 10.2, 9.8)], 1, "held"),
        ([(10.0, 10.2, 9.8)], -1, "not held"),
        ([(10.0, 10.2, 9.8), (1.0, -2.0, 3.0)], 1, "cannot be told here"),
        ([(10.0, 10.2, 9.8), (-10.0, -10.2, -9.8)], 1, "not held"),
        ([(0.0, 0.0, 0.0)], 1, "cannot be told here"),
        ([(5.0,)], 1, "cannot be told here"),
    ],
)
def test_verdict(values, sign, expected):
    assert paired.verdict([Comparison("", sign, each) for each in values]) == expected


def test_the_candidate_is_chosen_on_the_validation_split_over_all_seeds():
    """Candidate 1 has the mean 2.5 against 2; its test reward is lower, and that plays no part."""
    table = rows(
        arm=["A"] * 4,
        candidate=[0, 0, 1, 1],
        seed=[0, 1, 0, 1],
        validation_reward=[2.0, 2.0, 1.0, 4.0],
        test_reward=[9.0, 9.0, 1.0, 1.0],
    )
    assert paired.chosen(table)["candidate"].to_list() == [1, 1]


def test_differences_are_taken_seed_by_seed():
    table = rows(arm=["A", "A", "B", "B"], seed=[1, 0, 0, 1], test_reward=[5.0, 3.0, 1.0, 2.0])
    assert paired.difference(table, "A", "B", "test_reward", "").values == (2.0, 3.0)


def test_a_seed_without_a_number_is_left_out():
    table = rows(arm=["A", "A", "B", "B"], seed=[0, 1, 0, 1], test_kl=[3.0, 4.0, 1.0, None])
    assert paired.difference(table, "A", "B", "test_kl", "").values == (2.0,)


def test_the_area_of_a_frontier():
    """Gains of 2 at 5 nats and 1 at 8, up to 10: a triangle of 5 and a rectangle of 10 over 10 nats: 1.5."""
    table = rows(arm=["A", "A"], seed=[0, 0], test_kl=[8.0, 5.0], test_reward=[4.0, 5.0])
    assert paired.frontier_areas(table, reference=3.0, nats=10.0)["area"].to_list() == pytest.approx([1.5], abs=1e-3)


def test_slopes_are_per_factor_e():
    """Reward 1 at beta 1, 3 at e^2: one per factor e."""
    table = rows(seed=[0, 0], beta=[1.0, 7.38905609893065], test_reward=[1.0, 3.0])
    assert paired.slopes(table) == pytest.approx([1.0])


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_makes_a_section_and_a_figure(name, tmp_path):
    table = page.table(name, Invented([name]), seeds=2)
    assert table["seed"].n_unique() == 2
    said = "\n".join(page.section(name, CLAIMS[name], table))
    assert said.count("\n| ") == 2 + len(COMPARISONS[name](table, 2.0))
    page.figures.draw(name, table, 2.0, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text(encoding="utf-8").startswith("<svg")


def test_a_seed_that_is_not_done_is_left_out():
    trials = Invented(["beta_gap"])
    del trials.done[next(key for key in trials.done if json.loads(key)[3] == 1)]
    assert page.table("beta_gap", trials, seeds=2)["seed"].unique().to_list() == [0]


def test_the_page_is_what_the_tables_on_disk_give():
    text = page.PAGE.read_text(encoding="utf-8")
    assert text.partition(page.START)[2].partition(page.END)[0] == page.generated()


def test_a_folder_of_another_size_is_refused(tmp_path):
    World(tmp_path, SMOKE).require_own()
    World(tmp_path, SMOKE).require_own()
    with pytest.raises(SystemExit, match="new --folder"):
        World(tmp_path, Size()).require_own()


@pytest.mark.long
def test_a_claim_runs_in_a_tiny_world():
    before = page.PAGE.read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(FOLDER / "run.py"), "sft_deviation", "--smoke"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| KL, MinorSFT − SFT" in done.stdout
    assert page.PAGE.read_text(encoding="utf-8") == before
