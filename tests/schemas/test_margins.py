"""A margin has one formula for tables and one for tensors: they give the same numbers."""

import polars as pl
import torch
from method_batches import SIDES, batch

from scoreonce.pipeline import methods
from scoreonce.schemas import margins


def table_of(columns):
    return pl.DataFrame({name: columns[name].numpy() for side in SIDES for name in _names(side)})


def _names(side):
    return (f"policy_{side}_logps", f"ref_{side}_logps")


def test_by_hand():
    row = {"policy_chosen_logps": -3.0, "ref_chosen_logps": -5.0, "policy_rejected_logps": -9.0}
    table = pl.DataFrame([row | {"ref_rejected_logps": -6.0}, row | {"ref_rejected_logps": None}])
    found = table.select(
        chosen=margins.logratios("chosen"),
        rejected=margins.logratios("rejected"),
        margin=margins.margin(),
        ref_margin=margins.ref_margin(),
    )
    assert found.rows() == [(2.0, -3.0, 5.0, 1.0), (2.0, None, None, None)]


def test_the_tensors_give_the_same_on_random_pairs():
    columns = batch(1000, seed=4)
    found = table_of(columns).select(
        margins.margin().alias("margin"),
        margins.ref_margin().alias("ref_margin"),
        *(margins.logratios(side).alias(side) for side in SIDES),
    )
    outcome = methods.apply("dpo", columns, beta=1.0)
    assert found["margin"].to_list() == outcome.margin.tolist()
    assert found["chosen"].to_list() == outcome.chosen_rewards.tolist()  # of beta 1
    assert found["rejected"].to_list() == outcome.rejected_rewards.tolist()
    # Where the policy gives both completions 0 nats, the margin is the reference's with the other sign.
    zeros = {f"policy_{side}_logps": torch.zeros(1000, dtype=torch.float64) for side in SIDES}
    assert found["ref_margin"].to_list() == (-methods.apply("dpo", columns | zeros).margin).tolist()
