"""What the check before the first step accepts."""

import math

import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages.train.cache_check import Residual, require_agreement


def test_the_worst_pair_decides_and_of_experts_the_median():
    """One of 32 pairs 2.6e-3 off, as where one token of a hundred went to another expert and moved by 0.26 nats."""
    routed = Residual(32, worst=2.6e-3, median=1e-7, mean=8e-5)
    require_agreement(routed, "float32", experts=True)
    with pytest.raises(InputError, match="its log-probs are not the cached ones") as raised:
        require_agreement(routed, "float32")
    assert "2.6e-03 nats per token apart on the worst of 32 pairs, 1.0e-07 on the median" in raised.value.found
    with pytest.raises(InputError) as raised:
        require_agreement(routed, "float32", differing="torch 2.12.0 when scored, 2.13.0 here")
    assert raised.value.found.endswith("1e-05 is rounding in float32. torch 2.12.0 when scored, 2.13.0 here")
    for median in (2e-5, math.nan):
        with pytest.raises(InputError):
            require_agreement(Residual(32, worst=2.6e-3, median=median, mean=1e-3), "float32", experts=True)
    require_agreement(Residual(32, worst=9e-6, median=9e-6, mean=9e-6), "float32")
