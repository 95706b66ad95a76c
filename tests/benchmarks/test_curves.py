"""What sweeps cost by the number of trainings."""

import sweep
from compared import curves
from compared.curves import Cost


def test_costs_by_hand():
    """One training in 100 s and nine in 260 s: 20 s for each further one. Separate runs of 90 and 110 s: 100 s each. A
    first run of 150 s that fills a cache, then 70 and 50 s: 60 s each."""
    shared, apart = Cost.through(100.0, 260.0, 9), Cost.each([90.0, 110.0])
    cached = Cost.after_the_first([150.0, 70.0, 50.0])
    assert (shared.of(1), shared.of(9), shared.of(64)) == (100.0, 260.0, 100.0 + 63 * 20.0)
    assert apart.of(64) == 6400.0
    assert cached.of(4) == 150.0 + 3 * 60.0


def test_the_table_ends_with_the_limit():
    """At 8 trainings 800 s against 240; in the limit 100 s against 20 for each further one."""
    lines = curves.table({"compare": Cost(100.0, 20.0), "TRL": Cost(100.0, 100.0)}, "compare").splitlines()
    assert lines[0] == "| trainings | compare, s | TRL, s | TRL / compare |"
    assert "| 8 | 240 | 800 | 3.33 |" in lines
    assert lines[-1] == "| in the limit |  |  | 5.00 |"


def test_the_picture_is_drawn(tmp_path):
    costs = {"compare": Cost(100.0, 20.0), "TRL": Cost(100.0, 100.0)}
    curves.chart(costs, {"compare": {1: 100.0, 8: 240.0}}, tmp_path / "sweep.svg")
    drawn = (tmp_path / "sweep.svg").read_text(encoding="utf-8")
    assert "methods × β × seeds" in drawn
    assert "TRL" in drawn


def test_the_page_of_a_sweep():
    """What it says of TRL's runs, and the curves: 180 s of separate runs are measured, 100 s of `compare`."""
    stages = {"prepare": 10.0, "score": 50.0, "train": 90.0, "evaluate": 30.0}
    costs = {sweep.COMPARE: Cost(100.0, 20.0), sweep.SEPARATE: Cost.each([sum(stages.values())])}
    costs |= {sweep.TRL: Cost(200.0, 200.0), sweep.PRECOMPUTED: Cost(150.0, 60.0)}
    figures = {
        "model": "tiny",
        "trainings": 8,
        "pairs": 1_600,
        "compare with one training, s": 100.0,
        "compare, s": 240.0,
        "runs": [stages],
        "TRL's runs": {
            sweep.TRL: [{"seconds": 200.0, "passes made before": 0.0}],
            sweep.PRECOMPUTED: [
                {"seconds": 150.0, "passes made before": 1.0},
                {"seconds": 60.0, "passes made before": 0.0},
            ],
        },
        "TRL's micro-batches": {sweep.PRECOMPUTED: {"score": 4, "train": 2}},
        "curves": {name: vars(cost) for name, cost in costs.items()},
        "reason": "dpo is best.",
    }
    page = sweep.page(figures, "sweep.svg")
    assert "| runs of TRL, precomputed, tuned, s | 150.0, 60.0 |" in page
    assert "before training were 1.0, 0.0; its fastest micro-batches are 4 to score, 2 to train." in page
    assert "| 8 | 240 | 1,440 | 1,600 | 570 | 6.00 | 6.67 | 2.38 |" in page
    assert "| one separate run, score, s (median) | 50.0 |" in page
