"""The machine that a benchmark runs on: what it is, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("scoreonce", "torch", "transformers", "trl", "polars")
SIZE, REPEATS = 2_048, 9
SLOW = 0.1  # seconds of a product of a quarter of SIZE


def described() -> dict[str, Any]:
    """What belongs beside every figure: date, processor, cores, threads, load and versions."""
    return {
        "date": str(date.today()),
        "machine": _processor(),
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "load over 15 min": round(os.getloadavg()[2], 1),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def line(measured: dict[str, Any]) -> str:
    """The same in one sentence."""
    versions = ", ".join(f"{name} {number}" for name, number in measured["versions"].items() if number)
    return (
        f"Measured {measured['date']} on {measured['machine']}, {measured['cores']} cores, "
        f"{measured['threads']} threads, load {measured['load over 15 min']} over the last quarter of an hour; "
        f"{versions}."
    )


def write_page(path: Path, title: str, command: str, lines: Sequence[str], *, keep: bool = True) -> None:
    """Print a table with the command that made it and what it was measured on, and if it is kept write it as a page."""
    page = "\n".join([f"# {title}", "", f"`{command}`. {line(described())}", "", *lines, ""])
    print(page)
    if keep:
        path.write_text(page, encoding="utf-8")


def gemm_rates(device: str) -> dict[str, float]:
    """FLOP/s of square matrix products by dtype: the median of `REPEATS`.

    Of `SIZE`, but for a processor without the dtype in hardware, where a product of a quarter of it takes longer than
    one of `SIZE` does elsewhere: its rate is the same, and waiting for it takes minutes.
    """
    import torch  # processes that only start others stay small

    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        for size in (SIZE // 4, SIZE):
            left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            left @ right  # the first product starts threads and picks a kernel
            seconds = [timed(lambda left=left, right=right: left @ right, device) for _ in range(REPEATS)]
            rates[str(dtype).removeprefix("torch.")] = 2 * size**3 / statistics.median(seconds)
            if statistics.median(seconds) > SLOW:
                break
    return rates


def timed(work: Callable[[], object], device: str = "cpu") -> float:
    """Wall-clock seconds of `work`, the device's queue included."""
    started = time.perf_counter()
    work()
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter() - started


def has_avx512() -> bool:
    """Whether the processor multiplies vectors of 512 bits, as far as this system says."""
    information = Path("/proc/cpuinfo")
    return information.exists() and " avx512f" in information.read_text()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
