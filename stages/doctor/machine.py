"""What this machine is: devices, compilers, memory, disks. Nothing is loaded or fetched; torch is imported."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from scoreonce.schemas.errors import first_line
from scoreonce.stages.doctor.facts import FLAGS, Compiler, Cpu, Disk, Gpu, Memory, Torch
from scoreonce.stages.doctor.packages import installed

MIB = 1 << 20
SMI = ("nvidia-smi", "--query-gpu=name,memory.total,memory.free,driver_version,compute_cap")
SMI_SECONDS = 10.0  # a driver in trouble may never answer
CGROUP = Path("/sys/fs/cgroup")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def torch_facts() -> tuple[Torch | None, str]:
    """What torch says, or None and why it cannot be imported."""
    try:
        import torch

        from scoreonce.pipeline.attention.cpu_features import onednn_is_faster
    except (ImportError, OSError) as error:
        return None, first_line(error)
    with warnings.catch_warnings(record=True) as said:  # torch warns where the driver is too old
        warnings.simplefilter("always")
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_onednn = torch.backends.mkldnn.is_available()
    return (
        Torch(
            version=torch.__version__,
            cuda=torch.version.cuda,
            hip=torch.version.hip,
            gpus=gpus,
            archs=tuple(torch.cuda.get_arch_list()) if gpus else (),
            said=str(said[0].message).splitlines()[0] if said else "",
            threads=torch.get_num_threads(),
            vector=torch.backends.cpu.get_cpu_capability(),
            onednn_faster=onednn_is_faster(),
            bf16=has_onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        ),
        "",
    )


def gpus(torch: Torch | None) -> tuple[Gpu, ...]:
    """The GPUs that the driver lists, or where nvidia-smi is not there those that torch does."""
    if shutil.which(SMI[0]) is not None:
        with suppress(OSError, subprocess.SubprocessError):
            command = [*SMI, "--format=csv,noheader,nounits"]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SMI_SECONDS)
            return tuple(listed_gpus(done.stdout.splitlines()))
    return tuple(_of_torch(number) for number in range(torch.gpus if torch else 0))


def listed_gpus(lines: Iterable[str]) -> Iterator[Gpu]:
    """The GPUs of nvidia-smi's table: name, MiB, MiB free, driver, compute capability; what is none is left out."""
    for line in lines:
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 5 and cells[1].isdecimal() and cells[2].isdecimal():
            major, _, minor = cells[4].partition(".")
            known = major.isdecimal() and minor.isdecimal()
            capability = (int(major), int(minor)) if known else None
            yield Gpu(cells[0], int(cells[1]) * MIB, int(cells[2]) * MIB, cells[3], capability)


def _of_torch(number: int) -> Gpu:
    import torch

    device = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    return Gpu(device.name, total, free, "?", None if torch.version.hip else (device.major, device.minor))


def cpu() -> Cpu:
    """The processor, and how much of it this process may use."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    model, flags = processor(_text(Path("/proc/cpuinfo")))
    return Cpu(model or platform.processor() or platform.machine(), cores, cpu_quota(_text(CGROUP / "cpu.max")), flags)


def processor(cpuinfo: str) -> tuple[str, frozenset[str]]:
    """Model and known flags of the first processor in the text of /proc/cpuinfo."""
    stated: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        stated.setdefault(name.strip(), value.strip())
    return stated.get("model name", ""), frozenset(FLAGS) & frozenset(stated.get("flags", "").split())


def cpu_quota(limit: str) -> float | None:
    """Cores that a container may use at a time, by the text of cpu.max: microseconds of work in a period, or "max"."""
    work, _, period = limit.strip().partition(" ")
    return int(work) / int(period) if work.isdecimal() and period.isdecimal() and int(period) else None


def memory() -> Memory:
    """Of the host, or of the container that this is."""
    found = psutil.virtual_memory()
    limit = _text(CGROUP / "memory.max").strip()
    most = int(limit) if limit.isdecimal() else found.total
    return Memory(min(found.total, most), min(found.available, most), huge_pages(_text(HUGE_PAGES)))


def huge_pages(setting: str) -> str | None:
    """The choice in brackets: "always [madvise] never" says madvise."""
    return setting.partition("[")[2].partition("]")[0] or None


def compiler() -> Compiler:
    """The C compiler that Triton would call, the headers that it needs, and Triton."""
    commands = filter(None, (os.environ.get("CC"), "gcc", "clang", "cc"))
    return Compiler(
        command=next((path for command in commands if (path := shutil.which(command))), None),
        headers=Path(sysconfig.get_path("include"), "Python.h").is_file(),
        triton=(installed("triton") or "unknown version") if importlib.util.find_spec("triton") else None,
    )


def disk(role: str, path: Path) -> Disk:
    """Room and permission where `path` is, or would be made."""
    whole = path.expanduser().absolute()
    there = next(each for each in (whole, *whole.parents) if each.is_dir())
    return Disk(role, str(path), str(there), shutil.disk_usage(there).free, os.access(there, os.W_OK | os.X_OK))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
