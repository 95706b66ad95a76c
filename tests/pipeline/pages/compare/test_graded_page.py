"""The page and the terminal of a comparison that a true reward or a judge ranks: what leads, cost, and downloads."""

import base64
import re
from dataclasses import replace

import pytest

from scoreonce.pipeline.evaluation.graded import graded
from scoreonce.pipeline.evaluation.intervals import Interval
from scoreonce.pipeline.evaluation.standings import Standing, Standings
from scoreonce.pipeline.pages.compare.data import Comparison, Trial
from scoreonce.pipeline.pages.compare.page import render
from scoreonce.pipeline.pages.compare.verdict import decision
from scoreonce.pipeline.pages.ranking import HELD_OUT_ACCURACY, Measure, leading_all
from scoreonce.stages.compare.table import standing_lines

DRIFT = {"dpo": 0.3, "ipo": 0.1, "rso": 0.2}


def ends(mean, half=0.1):
    return Interval(mean, mean - half, mean + half)


def trial(name, accuracy, memory):
    figures = {"accuracy": accuracy, "margin": 1.0, "cross_entropy_increase": DRIFT[name]}
    logratios = {"chosen_logratios": 0.1, "rejected_logratios": -0.9}
    return Trial(name, 0, f"{name}-s0", figures | logratios, 60.0, memory=memory)


def compared(grades, of=1.0, *, share=False):
    """One seed each; dpo has the highest accuracy, rso the lowest, and dpo's memory peaks at 3 MiB."""
    title = "win rate against the reference" if share else "true reward"
    measure = Measure(title, {f"{n}-s0": ends(at) for n, at in grades.items()}, Interval(of, of, of), share=share)
    rows = tuple(
        Standing(name, 1, ends(accuracy), None, True, True)
        for name, accuracy in (("dpo", 0.9), ("ipo", 0.7), ("rso", 0.6))
    )
    found = graded(Standings(500, rows), {name: [ends(at)] for name, at in grades.items()}, share=share)
    trials = (trial("dpo", 0.9, 3 * 2**20), trial("ipo", 0.7, None), trial("rso", 0.6, 2**20))
    settings = {name: {"train.method": name} for name in DRIFT}
    return Comparison(found, decision(found, DRIFT, measure), trials, settings, measure=measure)


def saved(page, name):
    return base64.b64decode(re.search(rf'download="{name}" href="[^"]*base64,([^"]+)"', page)[1]).decode()


def test_the_true_reward_decides_and_not_held_out_accuracy():
    """2.5 is 0.6 above 1.9; two comparisons have half widths of 0.162."""
    data = compared({"dpo": 1.4, "ipo": 1.9, "rso": 2.5})
    assert data.decision.recommended == "rso"
    assert data.decision.reason.startswith(
        "rso has the highest true reward, 2.50 (2.40 to 2.60), 0.60 ahead of ipo (0.44 to 0.76)."
    )
    said = list(standing_lines(data))
    assert said[0] == "ranked by the true reward"
    assert [line.split()[0] for line in said[2:5]] == ["rso", "ipo", "dpo"]
    page = render(data)
    assert "Ranked by the true reward" in page
    assert page.index("<bdi>rso</bdi>") < page.index("<bdi>ipo</bdi>") < page.index("<bdi>dpo</bdi>")
    assert "True reward against drift" in page
    names, *rows = saved(page, "standings.csv").splitlines()
    assert names.startswith("candidate,tied,seeds,true_reward,true_reward_low,true_reward_high,accuracy")
    assert [row.split(",")[:4] for row in rows] == [
        ["rso", "True", "1", "2.5"],
        ["ipo", "False", "1", "1.9"],
        ["dpo", "False", "1", "1.4"],
    ]


def test_remarks_stand_as_they_are_and_notes_say_what_does_not_vary():
    data = replace(compared({"dpo": 1.4, "ipo": 1.9, "rso": 2.5}), notes=("rso has no x",), remarks=("Mind the end.",))
    notes = re.findall(r'<p class="note">([^<]*)</p>', render(data))
    assert "Mind the end." in notes
    assert "rso has no x: not varied for it." in notes
    assert list(standing_lines(data))[-1] == "note: Mind the end."


def test_of_those_tied_for_a_win_rate_the_one_that_moved_least():
    data = compared({"dpo": 0.80, "ipo": 0.78, "rso": 0.2}, of=0.5, share=True)
    assert data.decision.recommended == "ipo"
    assert data.decision.reason.startswith(
        "2 of 3 candidates are tied: the win rate against the reference does not tell them apart. Of the 2 within"
    )
    assert "with a win rate against the reference of 78.0% (68.0% to 88.0%)." in data.decision.reason


def test_none_is_taken_that_is_not_clearly_better_than_the_reference():
    """1.05 with an end at 0.95 may be the reference's 1.0."""
    data = compared({"dpo": 1.05, "ipo": 0.9, "rso": 0.8})
    assert data.decision.recommended is None
    assert data.decision.reason.startswith(
        "The data cannot tell: dpo has the highest true reward, 1.05 (0.95 to 1.15), not clearly better than the "
        "reference, with 1.00."
    )


@pytest.mark.parametrize(("known", "leads"), [(("dpo", "ipo"), True), (("dpo",), False), ((), False)])
def test_a_measure_leads_only_where_it_is_known_of_all(known, leads):
    demo = [
        {"label": label, "true_reward_mean": 1.0, "true_reward_low": 0.9, "true_reward_high": 1.1} for label in known
    ]
    found, partly = leading_all(demo, [], ["dpo", "ipo"])
    assert (found is not None) == leads
    expected = "The true reward is known of 1 of 2 trainings; it leads once it is of all."
    assert partly == (expected if known == ("dpo",) else "")


def test_peak_memory_is_in_the_table_of_costs_and_in_the_downloads():
    page = render(compared({"dpo": 1.4, "ipo": 1.9, "rso": 2.5}))
    costs = page[page.index('id="cost"') : page.index('id="trainings"')]
    assert "3.0 MiB" in costs
    assert "1.0 MiB" in costs
    names, *rows = saved(page, "trainings.csv").splitlines()
    column = names.split(",").index("peak_memory")
    assert [row.split(",")[column] for row in rows] == ["3145728", "", "1048576"]
    assert "peak_memory" in saved(page, "standings.csv").splitlines()[0]


def test_two_seeds_that_do_not_decide_ask_for_a_third():
    def row(name, mean, gap=None, seeds=2):
        return Standing(name, seeds, ends(mean, 0.05), gap, gap is None or gap.low <= 0, True)

    tied, clear = Interval(0.01, -0.3, 0.32), Interval(0.1, 0.02, 0.18)
    asks = "With two seeds the intervals are wide; a third seed would say more: --seeds 3."
    drift = {"a": 0.1, "b": 0.2}
    assert decision(Standings(9, (row("a", 0.7), row("b", 0.69, tied))), drift).reason.endswith(asks)
    assert asks in decision(Standings(9, (row("a", 0.5), row("b", 0.49, tied))), drift).reason
    assert asks not in decision(Standings(9, (row("a", 0.7), row("b", 0.6, clear))), drift).reason
    three = Standings(9, (row("a", 0.7, seeds=3), row("b", 0.69, tied, seeds=3)))
    assert asks not in decision(three, drift, HELD_OUT_ACCURACY).reason
