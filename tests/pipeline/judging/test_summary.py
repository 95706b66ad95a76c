"""Figures of a judgement, by hand, and AlpacaEval's published win rates from its public annotations."""

import gzip
import json
import math
from collections import defaultdict

import polars as pl
import pytest

from scoreonce.pipeline.judging.summary import judgement_summary, preference, score_summary
from scoreonce.schemas.tables import Judgement, SampleScore


def judgements(rows, ordered=True) -> pl.DataFrame:
    """Rows of prompt, sample, and the answers in both orders."""
    names = ["prompt_id", "sample", "preference_first", "preference_second"]
    frame = pl.DataFrame(rows, schema=names, orient="row").with_columns(
        pl.lit("c").alias("completion_id"),
        pl.lit("o").alias("other_id"),
        pl.col("^preference_.*$").cast(pl.Float64),
        completion_chars=10 + pl.col("sample"),
        other_chars=pl.lit(10),
    )
    answer = preference() if ordered else pl.col("preference_first")  # of a judge that was asked in one order
    frame = frame.with_columns(answer.alias("preference")).select(Judgement.column_names())
    return Judgement.validate(frame, cast=True)


def test_win_rate_counts_ties_half_and_prompts_alike():
    """a: (1 + 1 + 0)/3 = 2/3 over its answered samples, b: one tie = 1/2; the rate is 7/12. One answer is missing."""
    table = judgements([("a", 0, 1, 1), ("a", 1, 1, 1), ("a", 2, 0, 0), ("b", 0, 0.5, 0.5), ("b", 1, 1, None)])
    found = judgement_summary(table)
    assert found["win_rate"]["rate"] == pytest.approx(7 / 12)
    assert (found["comparisons"], found["unanswered"], found["prompts"]) == (5, 1, 2)
    assert (found["wins"], found["losses"], found["ties"]) == (2, 1, 1)


def test_one_order_alone_is_no_answer():
    assert judgements([("a", 0, 1, None), ("b", 0, 1, 0)])["preference"].to_list() == [None, 0.5]


def test_position_bias_is_said():
    """Ten prompts: eight where whoever is shown first wins (1 and 0), two where the sample wins in both orders.

    Changed 8/10; the first shown wins (8 · 1 + 2 · ½)/10 = 0.9; the win rate is (8 · ½ + 2)/10 = 0.6.
    """
    table = judgements([(str(each), 0, 1, 0 if each < 8 else 1) for each in range(10)])
    found = judgement_summary(table)
    assert found["position"]["changed"]["rate"] == pytest.approx(0.8)
    assert found["position"]["first_wins"]["rate"] == pytest.approx(0.9)
    assert found["position"]["first_wins"]["low"] > 0.5
    assert found["win_rate"]["rate"] == pytest.approx(0.6)


def test_the_interval_of_a_rate_is_over_prompts():
    """Forty rates of 0 and 1: s² = 10/39, n* = ¼ · 40 / s² = 39, half width z √(¼/39 + z²/(4 · 39²)) / (1 + z²/39).

    The same judged four times each is as sure, and no surer.
    """
    forty = judgement_summary(judgements([(str(each), 0, each % 2, each % 2) for each in range(40)]))["win_rate"]
    z = 1.959964
    half = z * math.sqrt(0.25 / 39 + z**2 / (4 * 39**2)) / (1 + z**2 / 39)
    assert forty["low"] == pytest.approx(0.5 - half, abs=1e-6)
    assert forty["high"] == pytest.approx(0.5 + half, abs=1e-6)
    again = [(str(each), sample, each % 2, each % 2) for each in range(40) for sample in range(4)]
    assert judgement_summary(judgements(again))["win_rate"] == forty


def test_a_rate_of_one_has_wilsons_interval():
    """Ten of ten: Wilson's lower end is 1 / (1 + z²/10) = 0.7225."""
    found = judgement_summary(judgements([(str(each), 0, 1, 1) for each in range(10)]))["win_rate"]
    assert found == {"rate": 1.0, "low": pytest.approx(0.72246, abs=1e-4), "high": 1.0}


def test_nothing_answered_has_no_rate():
    found = judgement_summary(judgements([("a", 0, None, None)]))
    assert found["win_rate"] is None
    assert found["length_controlled_win_rate"] is None
    assert found["position"] is None


def test_scores_are_averaged_by_prompt():
    """a: (1 + 3)/2 = 2, b: 5, one without a score: mean 3.5."""
    rows = [("x", "a", 0, "c", 1.0), ("x", "a", 1, "d", 3.0), ("x", "b", 0, "e", 5.0), ("x", "b", 1, "f", None)]
    table = SampleScore.validate(pl.DataFrame(rows, schema=SampleScore.column_names(), orient="row"), cast=True)
    (found,) = score_summary(table)
    assert found["score"] == pytest.approx(3.5)
    assert (found["label"], found["samples"], found["unscored"]) == ("x", 4, 1)


# Of AlpacaEval's leaderboards: `win_rate` of the models all of whose annotations are in the two files. In the first the
# judge is alpaca_eval_gpt4 and the baseline text_davinci_003; draws are not in the file, and these models have none. In
# the second the judge is weighted_alpaca_eval_gpt4_turbo and the baseline gpt4_1106_preview.
PUBLISHED = {
    ("alpaca_eval1_pairs", "guanaco-65b"): 71.80124224,
    ("alpaca_eval1_pairs", "claude2-alpaca-13b"): 78.92768079800499,
    ("alpaca_eval1_pairs", "recycled-wizardlm-7b-v1.0"): 78.88198757763976,
    ("alpaca_eval_multijudge", "claude-2.1"): 15.733506736409938,
    ("alpaca_eval_multijudge", "gpt-3.5-turbo-0301"): 9.622453295105588,
    ("alpaca_eval_multijudge", "alpaca-7b"): 2.591450540223603,
}
PUBLISHED_ERROR = {"claude-2.1": 1.120315865445773, "gpt-3.5-turbo-0301": 0.9129656686751644}


@pytest.mark.parametrize("file", ["alpaca_eval1_pairs", "alpaca_eval_multijudge"])
def test_win_rates_are_those_that_alpaca_eval_published(shared, file):
    found = defaultdict(list)
    with gzip.open(shared / f"data/prefs/{file}.jsonl.gz", "rt") as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            judged = row["p_response_2_better"]
            answer = judged.get("weighted_alpaca_eval_gpt4_turbo") if isinstance(judged, dict) else judged
            if answer is not None:
                found[row["model_2"]].append((str(number), 0, answer, None))
    for (where, model), published in PUBLISHED.items():
        if where == file:
            rate = judgement_summary(judgements(found[model], ordered=False))["win_rate"]
            assert 100 * rate["rate"] == pytest.approx(published, abs=1e-4), model  # the file has six decimals
            if model in PUBLISHED_ERROR:  # the interval is about as wide as that of its published standard error
                width = 100 * (rate["high"] - rate["low"])
                assert width == pytest.approx(2 * 1.959964 * PUBLISHED_ERROR[model], rel=0.02)
