"""Processes compare what they are about to do; every one of them gets the same answer."""

import pytest
import torch

from scoreonce.pipeline.training.agreement import require_agreement
from scoreonce.schemas.errors import InputError


def outcomes(plans):
    """What each process is told: None, or the `found` of its error."""
    tables = []
    for plan in plans:  # collect what each would send

        def sent(table):
            tables.append(table)
            return table

        require_agreement(plan, sent)
    told = []
    for plan in plans:
        try:
            require_agreement(plan, lambda table: torch.cat(tables))
            told.append(None)
        except InputError as error:
            told.append(error.found)
    return told


def test_equal_plans_pass_whatever_the_order_of_keys_inside():
    plan = {"steps done": 4, "settings": {"a": 1, "b": "β" * 100}, "nothing": None}
    assert outcomes([plan, {**plan, "settings": {"b": "β" * 100, "a": 1}}]) == [None, None]


def test_what_differs_is_named_with_its_values_on_every_process():
    plans = [{"steps done": 4, "method": "dpo"}, {"steps done": 4, "method": "ipo"}, {"steps done": 0, "method": "dpo"}]
    expected = 'steps done: 4 on process 0, 0 on process 2\n         method: "dpo" on process 0, "ipo" on process 1'
    assert outcomes(plans) == [expected] * 3


def test_long_facts_differ_by_their_digest():
    """SHA-256 of the JSON '[0,0,...,0]' and of one with a 1 at the end."""
    zeros = [0] * 40
    told = outcomes([{"pairs": zeros}, {"pairs": [*zeros[:-1], 1]}])
    assert told[0] == told[1]
    assert told[0].count("…") == 2


def test_the_message_has_four_parts():
    with pytest.raises(InputError) as caught:
        require_agreement({"a": 1}, lambda table: torch.cat([table, table + 1]))
    assert "one `out` that they share" in caught.value.fix
