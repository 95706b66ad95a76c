"""Which layouts are tried on which device."""

import pytest

from scoreonce.pipeline.batches.layouts import candidates


@pytest.mark.parametrize(
    ("device", "by_rows", "compiled", "groups"),
    [
        ("cpu", True, False, (("packed",), ("shared",))),
        ("cpu", False, False, (("shared",),)),
        ("cuda", False, False, (("flex", "flash"), ("shared",))),
        ("cuda", False, True, (("flex",), ("shared",))),
    ],
)
def test_candidates(device, by_rows, compiled, groups):
    assert candidates(device, by_rows=by_rows, compiled=compiled) == groups
