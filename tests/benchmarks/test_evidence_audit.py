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
import page  # noqa: E402
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


def test_as_many_pairs_are_drawn_at_random_as_the_finding_has():
    found = pl.DataFrame({"row": [0, 1, 2, 3, 5], "flagged": [True, False, True, False, False]})
    settings = audit_helps.cleaned(None, audit_helps.Cleaning("flips", "random", 0), found)
    kept = found.filter(pl.sql_expr(settings["train.where"]))
    assert len(kept) == 3
    assert audit_helps.cleaned(None, audit_helps.Cleaning("flips", "all", 0), found) == {}


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


@pytest.mark.long
def test_it_runs_in_a_tiny_world():
    """In which each plant is found: contradictions with both pairs of each, repetitions all of them."""
    command = [sys.executable, str(FOLDER / "audit_helps.py"), "--smoke"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| `contradictory_pair` | 100% | 50% of 8 |" in done.stdout
    assert "| `duplicate_pair` | 100% | 0% of 4 |" in done.stdout
