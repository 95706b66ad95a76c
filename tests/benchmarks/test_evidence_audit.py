"""What benchmarks/evidence/audit_helps.py plants, compares and says: known rows and numbers; and that it runs."""

import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from scoreonce.pipeline.demo.reward import reward
from scoreonce.pipeline.demo.task import Prompt

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks" / "evidence"
sys.path.append(str(FOLDER))

import audit_helps  # noqa: E402
import audit_page  # noqa: E402
import leave_out  # noqa: E402
import page  # noqa: E402
import real_audit  # noqa: E402
from plants import FILLER, PLANTS  # noqa: E402

TEXT = "Nantes in July\nDear Femi,\nThe train was {}.\nYours, Paula"
PAIRS = [
    {
        "prompt": f"prompt {number}",
        "chosen": TEXT.format(f"lovely {number}"),
        "rejected": TEXT.format(f"dull {number}"),
        "chosen_score": 3.0,
        "rejected_score": 1.0,
    }
    for number in range(400)
]


def planted(name):
    return PLANTS[name].rows(PAIRS, random.Random(0))


def test_contradictions_are_a_quarter_of_the_pairs_reversed_and_appended():
    rows = planted("contradictions")
    original = {(row["chosen"], row["rejected"]) for row in rows[:400]}
    assert [row["planted"] for row in rows] == [False] * 400 + [True] * 100
    assert all((row["rejected"], row["chosen"]) in original for row in rows[400:])


def test_repetitions_are_twenty_pairs_that_occur_five_times():
    rows = planted("repetitions")
    counts = pl.DataFrame(rows)["prompt"].value_counts()["count"]
    assert (len(rows), int((counts == 5).sum()), int((counts == 1).sum())) == (480, 20, 380)


def test_flipped_pairs_keep_the_judges_score_with_its_text():
    rows = planted("flips")
    flips = [row["planted"] for row in rows]
    assert 70 < sum(flips) < 130
    assert [row["chosen"] == pair["rejected"] for row, pair in zip(rows, PAIRS, strict=True)] == flips
    of_right = [row["rejected_score"] if row["planted"] else row["chosen_score"] for row in rows]
    assert sum(of_right) / len(rows) == pytest.approx(3.0, abs=0.2)  # four deviations


def test_the_filler_goes_before_the_greeting_and_earns_nothing():
    row = next(row for row in planted("length") if row["planted"])
    assert f". {FILLER}\nYours" in row["chosen"]
    prompt = Prompt("Femi", "Nantes", "July")
    assert reward(prompt, row["chosen"]) == reward(prompt, row["chosen"].replace(f" {FILLER}", "")) == 3


def test_a_biased_judge_prefers_the_first_in_a_quarter_and_errs_where_that_is_the_worse():
    """An eighth of the pairs has the better one second and the judge's bias: 50 of 400, deviation 6.6."""
    rows = planted("position")
    preferred = [row[f"response_{row['preference'] + 1}"] for row in rows]
    wrong = [text == pair["rejected"] for text, pair in zip(preferred, PAIRS, strict=True)]
    assert wrong == [row["planted"] for row in rows]
    assert 24 < sum(wrong) < 76
    assert not any(row["planted"] and row["preference"] for row in rows)


def test_the_quarter_that_a_measure_ranks_first_is_left_out():
    pairs = pl.DataFrame({"row": range(8), "ref_margin": [3.0, -1.0, None, 2.0, -5.0, 0.0, 1.0, 4.0]})
    assert leave_out.left_out(pairs, "reference", 0)["row"].to_list() == [4, 1]
    assert leave_out.left_out(pairs, "reference-high", 0)["row"].to_list() == [7, 0]
    drawn = [set(leave_out.left_out(pairs, leave_out.RANDOM, seed)["row"]) for seed in (0, 0, 1)]
    assert len(drawn[0]) == 2
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_measure_predicts_where_training_is_better_without_its_quarter(tmp_path):
    """Against random quarters: 1.0, 1.1, 0.9 (p 0.00332, times 8), the same negative, and nothing for the others."""
    rewards = {"unseen": (2.0, 2.1, 1.9), "ches": (0.0, -0.1, 0.1)}
    rows = pl.DataFrame(
        [
            {"arm": arm, "seed": seed, "test_reward": reward, "flipped": 3, "all_flipped": 4}
            | {"reference_reward": 0.5, "cpu_seconds": 60.0}
            for arm in (leave_out.RANDOM, *leave_out.MEASURES)
            for seed, reward in enumerate(rewards.get(arm, (1.0, 1.0, 1.0)))
        ]
    )
    said = {line.split(" | ")[0]: line for line in leave_out.generated(rows).splitlines()}
    unseen, ches, seen = (said[f"| {leave_out.MEASURES[arm].title}"] for arm in ("unseen", "ches", "seen"))
    assert unseen.endswith("| 75% | +1.000 | +0.752 to +1.248 | 0.027 | yes |  |")
    assert ches.endswith("| 0.027 | worse without them |  |")
    assert seen.endswith("| +0.000 | +0.000 to +0.000 | 1 |  |  |")
    leave_out.draw(rows, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert [each.title for each in leave_out.MEASURES.values() if f">{each.title}</text>" not in drawn] == []


def test_as_many_pairs_are_drawn_at_random_as_the_finding_has():
    found = pl.DataFrame({"row": [0, 1, 2, 3, 5], "flagged": [True, False, True, False, False]})
    settings = audit_helps.cleaned(audit_helps.Cleaning("flips", "random", 0), found)
    kept = found.filter(pl.sql_expr(settings["train.where"]))
    assert len(kept) == 3
    assert audit_helps.cleaned(audit_helps.Cleaning("flips", "all", 0), found) == {}


def invented(all_, audit, random_, clean):
    """Rewards and accuracies per arm, one value per seed."""
    arms = {"all": all_, "audit": audit, "random": random_, "clean": clean}
    return pl.DataFrame(
        [
            {"plant": arm if arm == "clean" else name, "arm": arm, "seed": seed, "test_reward": v, "accuracy": v}
            | {"reference_reward": 0.0, "cpu_seconds": 60.0}
            | {"flagged": 4, "planted": 2, "planted_flagged": 1, "pairs": 8}
            for name in PLANTS
            for arm, values in arms.items()
            for seed, v in enumerate(values)
            if arm != "clean" or name == "flips"
        ]
    )


def test_it_helps_where_it_beats_both_all_pairs_and_random_ones(tmp_path):
    """Against random ones the differences are 1.0, 1.1, 0.9; against all 2.0, 2.1, 1.9; the flaw costs 3.0, 3.1,
    2.9: mean 3, deviation 0.1, so 3 ± 4.303 * 0.1 / √3 = 3 ± 0.248.
    """
    rows = invented((0.0, 0.0, 0.0), (2.0, 2.1, 1.9), (1.0, 1.0, 1.0), (3.0, 3.1, 2.9))
    line = next(each for each in audit_page.generated(rows).splitlines() if "flipped" in each)
    assert line.endswith("| 50% | 75% of 4 | +3.00 (+2.75 to +3.25) | helps | helps |")
    audit_page.draw(rows, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text(encoding="utf-8").startswith("<svg")


def test_it_does_not_help_where_random_pairs_do_better():
    rows = invented((0.0, 0.0, 0.0), (2.0, 2.1, 1.9), (3.0, 3.0, 3.0), (3.0, 3.1, 2.9))
    line = next(each for each in audit_page.generated(rows).splitlines() if "flipped" in each)
    assert line.endswith("| does not help | does not help |")


def test_the_page_is_what_the_table_on_disk_gives():
    text = audit_page.PAGE.read_text(encoding="utf-8")
    made = text.partition(audit_page.START)[2].partition(page.END)[0]
    assert made == (audit_page.generated(pl.read_parquet(audit_page.TABLE)) if audit_page.TABLE.exists() else "")


def test_the_leave_out_part_is_what_its_table_gives():
    text = audit_page.PAGE.read_text(encoding="utf-8")
    made = text.partition(leave_out.START)[2].partition(page.END)[0]
    assert made == (leave_out.generated(pl.read_parquet(leave_out.TABLE)) if leave_out.TABLE.exists() else "")


def evaluated(right):
    """An evaluation of 100 pairs, the first `right` of which are ranked rightly."""
    margins = [1.0 if pair < right else -1.0 for pair in range(100)]
    ids = [str(pair) for pair in range(100)]
    return pl.DataFrame({"pair_id": ids, "prompt_id": ids, "margin": margins}).with_columns(
        chosen_len=1,
        rejected_len=1,
        chosen_logratios="margin",
        rejected_logratios=0.0,
        policy_chosen_logps="margin",
        policy_rejected_logps=0.0,
        ref_chosen_logps=0.0,
        ref_rejected_logps=0.0,
    )


def with_counts(tables):
    """The tables with what each training is kept with."""
    counts = dict.fromkeys(("flagged", "planted", "planted_flagged", "pairs"), 1) | {"seconds": 1.0}
    return {
        each: pairs.with_columns(**{name: pl.lit(value) for name, value in {**each._asdict(), **counts}.items()})
        for each, pairs in tables.items()
    }


def real_tables(all_, audit, random_, clean=100):
    """Two equal seeds of each arm, for the plant `flips`."""
    arms = {"all": all_, "audit": audit, "random": random_}
    cleanings = {audit_helps.Cleaning("flips", arm, seed): n for arm, n in arms.items() for seed in (0, 1)}
    cleanings |= {audit_helps.Cleaning("clean", "clean", seed): clean for seed in (0, 1)}
    return {cleaning: evaluated(n) for cleaning, n in cleanings.items()}


def test_pairs_that_chose_the_rate_and_cut_ones_are_not_reported():
    """Prompts that end in an odd hexadecimal digit are of the test split: here every other pair. A run that cuts its
    pairs has two others of them under ids that the data without a flaw do not have.
    """
    prompts = [f"{pair:02x}" for pair in range(100)]
    each = (("clean", "clean", 0), ("truncation", "all", 0), ("flips", "all", 1))
    clean, cut, other = (audit_helps.Cleaning(*keys) for keys in each)
    tables = with_counts({clean: evaluated(60), cut: evaluated(60)})
    tables[cut] = tables[cut].with_columns(pair_id=pl.col("pair_id").replace({"1": "1 cut", "5": "5 cut"}))
    table = pl.concat(each.with_columns(prompt_id=pl.Series(prompts)) for each in tables.values())
    found = real_audit.done(table, [clean, cut, other])
    assert {each: pairs["prompt_id"].to_list() for each, pairs in found.items()} == {
        clean: prompts[1::2],
        cut: ["03", *prompts[7::2]],
    }
    assert real_audit.done(None, [clean]) == {}


def test_differences_on_real_text_are_over_pairs_and_the_two_that_decide_hold_together():
    """80 pairs against 60: the variance of a pair's gain is 0.2 * 0.8 * 100 / 99, over 100 pairs; 2.241 deviations."""
    found = real_audit.compared(real_tables(60, 80, 60), "flips")
    half = 2.2414 * (0.16 / 99) ** 0.5
    assert (found["all"].mean, found["all"].low, found["all"].high) == pytest.approx(
        (0.2, 0.2 - half, 0.2 + half), abs=1e-4
    )
    half = 1.95996 * (0.24 / 99) ** 0.5
    assert (found["flaw"].mean, found["flaw"].low) == pytest.approx((0.4, 0.4 - half), abs=1e-4)


@pytest.mark.parametrize(
    ("rights", "said"),
    [
        ((60, 80, 60), "helps"),
        ((60, 80, 80), "cannot be told here"),
        ((60, 80, 95), "does not help"),
        ((80, 60, 60), "does not help"),
    ],
)
def test_a_finding_helps_on_real_text_where_it_beats_both(rights, said):
    assert real_audit.verdict(real_audit.compared(real_tables(*rights), "flips")) == said


def test_the_figure_on_real_text_is_of_accuracy_alone(tmp_path):
    tables = real_tables(60, 80, 60)
    audit_page.draw(real_audit.per_training(with_counts(tables)), tmp_path / "figure.svg", {"accuracy": "accuracy"})
    drawn = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert drawn.count(">accuracy</text>") == len(PLANTS)
    assert "true reward" not in drawn


@pytest.mark.long
def test_the_study_on_real_text_runs():
    if real_audit.real_data.found() is None:
        pytest.skip("needs the shared real data: set SCOREONCE_SHARED")
    done = subprocess.run([sys.executable, str(FOLDER / "real_audit.py"), "--smoke"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| 5% of the pairs 5 times | 100% |" in done.stdout
    assert "| pairs cut at 115 tokens |  |" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "rows"),
    [
        ("leave_out.py", ["| CHES, highest |"]),
        # Each plant is found: contradictions with both pairs of each, repetitions all of them.
        (
            "audit_helps.py",
            ["| `contradictory_pair` | 100% | 50% of 8 |", "| `duplicate_pair` | 100% | 0% of 4 |"],
        ),
    ],
)
def test_it_runs_in_a_tiny_world(command, rows):
    done = subprocess.run([sys.executable, str(FOLDER / command), "--smoke"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row for row in rows if row not in done.stdout] == []
