"""What loading sets in the process."""

import ctypes

import pytest

from scoreonce.stages import models


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch, platform):
    class Library:
        asked = []

        def mallopt(self, option, value):
            self.asked.append((option, value))

    monkeypatch.setattr(models.sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    models.keep_freed_memory()
    assert Library.asked == ([(-1, 2**31 - 1), (-3, 64 * 2**20)] if platform == "linux" else [])
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # musl
    models.keep_freed_memory()
