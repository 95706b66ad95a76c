"""Huge pages for models that compute on a CPU.

With pages of 4 KiB a processor often waits for the address of what it multiplies, in a virtual machine above all. Linux
gives pages of 2 MiB to memory that asks for them. torch asks only for single tensors of that size
(`THP_MEM_ALLOC_ENABLE`), which gains little (`benchmarks/huge_pages.py`); glibc asks for its heap only where
`GLIBC_TUNABLES` says so before the process starts.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

from torch import nn

# Of glibc's mallopt.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
DEFAULT_MMAP_MAX = 65_536
KEPT = 64 << 20  # bytes: smaller blocks come from the heap where no heap was reserved
MADV_HUGEPAGE = 14


def move_to_huge_pages(model: nn.Module) -> None:
    """Move weights on a CPU to the heap that `reserve_heap` makes. Values do not change.

    Weights lie in their mapped file otherwise, which has small pages. Those on other devices are left alone.
    """
    # 4-bit weights are packed into integers, beside what describes them.
    moved = [each for each in model.parameters() if each.device.type == "cpu" and each.is_floating_point()]
    if moved and reserve_heap():
        for parameter in moved:
            parameter.data = parameter.data.clone()


@cache
def reserve_heap() -> bool:
    """Give this process a heap of huge pages, once, and whether it has one. Only glibc on Linux can.

    Settings of glibc's own in the environment are kept: there is none then.

    The heap is addresses, half as many as the machine has memory; a page takes memory when it is first written. What is
    freed stays in the heap: given back to the system, the next layer would wait for the same pages again.
    """
    library = _glibc()
    if library is None or _set_by_the_user():
        return False
    library.mallopt(M_TRIM_THRESHOLD, -1)
    library.mallopt(M_MMAP_THRESHOLD, KEPT)
    if heap_is_limited():
        return False
    library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    library.free.argtypes, library.free.restype = [ctypes.c_void_p], None
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page = os.sysconf("SC_PAGE_SIZE")
    size = os.sysconf("SC_PHYS_PAGES") // 2 * page
    library.mallopt(M_MMAP_MAX, 0)  # the block extends the heap, and stays its end when it is freed
    block = library.malloc(size)
    asked = bool(block) and library.madvise((block + page - 1) // page * page, size - page, MADV_HUGEPAGE) == 0
    library.free(block)
    library.mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)
    return asked


def heap_is_possible() -> bool:
    """Whether `reserve_heap` can be expected to make one in a process like this."""
    return _glibc() is not None and not _set_by_the_user() and not heap_is_limited()


def heap_is_limited() -> bool:
    """Whether addresses count as memory here: by a limit of this process, or because the system promises no more."""
    import resource

    limits = (resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    if any(limit != resource.RLIM_INFINITY for limit in limits):
        return True
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text(encoding="ascii").strip() == "2"
    except OSError:
        return True


def _set_by_the_user() -> bool:
    """Whether the environment says how glibc gives out memory: `MALLOC_TRIM_THRESHOLD_=0`, `glibc.malloc.hugetlb=1`."""
    return "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") and name.endswith("_") for name in os.environ
    )


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") else None  # musl has none
