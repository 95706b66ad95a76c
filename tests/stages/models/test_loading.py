"""What loading sets in the process."""

import ctypes
from types import SimpleNamespace

import pytest

from scoreonce.stages.models import loading as models


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch, platform):
    asked = []
    library = SimpleNamespace(mallopt=lambda option, value: asked.append((option, value)))
    monkeypatch.setattr(models.sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    models.keep_freed_memory()
    assert asked == ([(-1, 2**31 - 1), (-3, 64 * 2**20)] if platform == "linux" else [])
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # musl
    models.keep_freed_memory()
