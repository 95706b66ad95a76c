"""The table benchmarks compute what their names say."""

import columns
import numpy as np
import polars as pl
import pytest


@pytest.fixture
def pairs(tmp_path):
    columns.write_scored(tmp_path / "pairs.parquet", 640)
    return pl.read_parquet(tmp_path / "pairs.parquet")


def margins(pairs):
    chosen, rejected = (pairs[f"policy_{side}_logps"] - pairs[f"ref_{side}_logps"] for side in ("chosen", "rejected"))
    return (chosen - rejected).to_numpy()


def test_margins(pairs):
    found = columns.margins(pairs.lazy()).collect().row(0, named=True)
    assert found["margin"] == pytest.approx(margins(pairs).mean())
    assert found["accuracy"] == pytest.approx((margins(pairs) > 0).mean())


def test_calibration_is_that_of_a_loop_over_steps(pairs):
    running, betas = None, []
    for step in margins(pairs).reshape(-1, columns.STEP_PAIRS):
        running = step.mean() if running is None else columns.MOMENTUM * running + (1 - columns.MOMENTUM) * step.mean()
        betas.append(max(columns.FLOOR, columns.BETA * (1 + columns.FOLLOW * (step.mean() - running))))
    found = columns.calibrated(pairs.lazy()).collect().row(0, named=True)
    assert found["least"] == pytest.approx(min(betas))
    rewards = margins(pairs) * np.repeat(betas, columns.STEP_PAIRS)
    assert found["beta"] == pytest.approx(rewards.mean())


def test_selection_keeps_a_share_of_each_step(pairs):
    """int(64 * 0.8) = 51 of each of the 10 steps."""
    assert columns.selected(pairs.lazy()).collect().item() == 510


def test_quantile_filter(pairs):
    margin, gap = margins(pairs), np.abs((pairs["chosen_len"] - pairs["rejected_len"]).to_numpy())
    order = np.sort(margin)
    inside = (margin >= order[round(0.05 * 639)]) & (margin <= order[round(0.95 * 639)])
    wanted = (inside & (gap <= np.sort(gap)[round(0.9 * 639)])).sum()
    assert columns.between_quantiles(pairs.lazy()).collect().item() == wanted


def test_hundredths_hold_equally_many(pairs):
    counts = columns.by_quantile(pairs.lazy()).collect()["len"]
    assert len(counts) == 100
    assert set(counts) <= {6, 7}
