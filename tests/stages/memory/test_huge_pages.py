"""Where weights and activations lie: in a heap that asks for huge pages, if the process may have one."""

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from scoreonce.stages.memory import huge_pages

# Prints whether the memory of a weight and of a tensor made later asks for huge pages, and whether the process keeps
# that of a tensor that it freed.
FLAGS = """
import torch
from torch import nn
from scoreonce.stages.memory import huge_pages

LIMIT

def flags(tensor):
    middle = tensor.data_ptr() + tensor.nbytes // 2  # its first bytes may share a page with something older
    for line in open("/proc/self/smaps"):
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            low, high = (int(end, 16) for end in first.split("-"))
            inside = low <= middle < high
        elif first == "VmFlags:" and inside:
            found = line.split()[1:]
    return "hg" in found

def resident():
    with open("/proc/self/statm") as counts:
        return int(counts.read().split()[1])

layer = nn.Linear(4000, 1000)
huge_pages.move_to_huge_pages(layer)
later = torch.ones(50_000_000)
asked = flags(layer.weight), flags(later)
before = resident()
del later
print(*asked, resident() > 0.9 * before)
"""


def printed(limit: str = "", **environment: str) -> str:
    command = [sys.executable, "-c", FLAGS.replace("LIMIT", limit)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
kernel = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").is_dir() or huge_pages.heap_is_limited(),
    reason="needs a kernel with huge pages that does not count addresses as memory",
)


@glibc
@kernel
def test_weights_and_all_that_comes_later_lie_in_huge_pages():
    assert printed() == "True True True"


@glibc
@kernel
def test_a_limit_on_addresses_is_not_used_up():
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))"
    assert printed(limit) == "False False False"  # 200 MB are a block of their own, and go back


@glibc
@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_MMAP_THRESHOLD_", "65536"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")]
)
def test_settings_of_glibc_are_kept(monkeypatch, name, value):
    assert printed(**{name: value}) == "False False False"
    monkeypatch.setenv(name, value)
    assert not huge_pages.heap_is_possible()


@pytest.mark.parametrize("system", ["darwin", "linux"])
def test_other_systems_and_c_libraries_have_no_such_heap(monkeypatch, system):
    monkeypatch.setattr(huge_pages.sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())  # musl has no mallopt
    assert not huge_pages.reserve_heap.__wrapped__()


def test_no_memory_for_the_heap_is_no_error(monkeypatch):
    options = []

    class Function:
        def __init__(self, answer):
            self.answer = answer

        def __call__(self, *given):
            options.append(given)
            return self.answer

    library = SimpleNamespace(mallopt=Function(1), malloc=Function(None), free=Function(None), madvise=Function(0))
    monkeypatch.setattr(huge_pages.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(huge_pages, "heap_is_limited", lambda: False)
    assert not huge_pages.reserve_heap.__wrapped__()
    assert options[-1] == (huge_pages.M_MMAP_MAX, huge_pages.DEFAULT_MMAP_MAX)  # large blocks are mapped as before


def test_weights_on_another_device_are_left_alone(monkeypatch):
    monkeypatch.setattr(huge_pages, "reserve_heap", lambda: pytest.fail("a heap for nothing"))
    huge_pages.move_to_huge_pages(nn.Linear(3, 5, device="meta"))


def test_weights_keep_their_values_and_stay_tied(monkeypatch):
    monkeypatch.setattr(huge_pages, "reserve_heap", lambda: True)
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    packed = nn.Parameter(torch.arange(4, dtype=torch.uint8), requires_grad=False)
    model["head"].register_parameter("packed", packed)
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}
    huge_pages.move_to_huge_pages(model)
    assert model["head"].weight is model["embed"].weight
    assert model["embed"].weight.requires_grad
    for name, tensor in model.state_dict().items():
        place, values = before[name]
        assert torch.equal(tensor, values)
        assert (tensor.data_ptr() == place) == (name == "head.packed")
