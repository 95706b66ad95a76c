"""Length, repetition, diversity and KL of samples, worked out by hand."""

import math

import polars as pl
import pytest
from scipy import stats

from scoreonce.pipeline.samples.estimates import ratio
from scoreonce.pipeline.samples.figures import distinct, figures, kl, repetition


def table(*rows):
    """(prompt, completion ids, finished, sampler's log-prob, reference's)"""
    names = ["prompt_id", "completion_ids", "finished", "sampler_logps", "ref_logps"]
    frame = pl.DataFrame(list(rows), schema=names, orient="row").cast({"ref_logps": pl.Float64})
    return frame.with_columns(completion_len=pl.col("completion_ids").list.len().cast(pl.Int32))


def test_repetition_and_distinct_by_hand():
    """1 2 1 2 1 2 has the 4-grams 1212, 2121, 1212: 1 − 2/3. Together with 3: 1-grams 1 2 3 of 7, pairs 12 21 of 5."""
    ids = pl.Series([[1, 2, 1, 2, 1, 2], [3]], dtype=pl.List(pl.Int32))
    assert repetition(ids).to_list() == pytest.approx([1 / 3, 0.0])
    assert distinct(ids, 1) == pytest.approx(3 / 7)
    assert distinct(ids, 2) == pytest.approx(2 / 5)
    assert distinct(ids, 7) is None


def test_kl_by_hand():
    """Log-ratios 1, 3 of prompt a and −2 of prompt b, with 2, 2 and 4 tokens.

    Per completion: 2/3. Sums by prompt 4 and −2 with 2 and 1 samples: residuals 4 − 4/3 and −2 − 2/3, both 8/3 in size;
    √(2 · 2 · 64/9) / 3 = 16/9. Per token: 2/8; residuals 4 − 1 and −2 − 1; √(2 · 18) / 8 = 3/4.
    """
    samples = table(
        ("a", [1, 2], True, -3.0, -4.0), ("a", [1, 3], True, -2.0, -5.0), ("b", [1, 2, 3, 4], False, -7.0, -5.0)
    )
    per_sequence, per_token = kl(samples)
    assert per_sequence == pytest.approx((2 / 3, 16 / 9))
    assert per_token == pytest.approx((1 / 4, 3 / 4))
    found = figures(samples)
    assert (found.prompts, found.samples) == (2, 3)
    assert (found.length, found.length_median) == (pytest.approx(8 / 3), 2)
    assert found.finished == pytest.approx(2 / 3)
    assert found.kl == per_sequence


def test_without_reference_scores_there_is_no_kl():
    found = figures(table(("a", [1], True, -3.0, None)))
    assert found.kl is None
    assert found.kl_per_token is None
    assert found.distinct_2 is None


def test_the_error_of_a_mean_is_the_standard_one():
    values = [1.0, 4.0, 2.5, -3.0]
    assert ratio(values, [1.0] * 4) == pytest.approx((sum(values) / 4, stats.sem(values)))
    assert ratio([2.0], [4.0]) == (0.5, None)


def test_samples_of_one_prompt_are_one_observation():
    """Two prompts of two equal samples each tell as much as one sample of each."""
    once = [("a", [1, 2], True, -1.0, -2.0), ("b", [1, 2], True, -1.0, -5.0)]
    for found, of_twice in zip(kl(table(*once)), kl(table(*once, *once)), strict=True):
        assert found == pytest.approx(of_twice)
    assert math.isclose(kl(table(*once))[0].mean, 2.5)
