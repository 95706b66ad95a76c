"""Checks of processor, memory, disks and stores."""

from __future__ import annotations

from collections.abc import Iterator

from scoreonce.pipeline.pages.numbers import size
from scoreonce.stages.doctor.facts import Facts
from scoreonce.stages.doctor.finding import Check, Finding

MIB, GIB = 1 << 20, 1 << 30
NO_ROOM = 64 * MIB  # of a disk: nothing more of a run can be written
LITTLE_ROOM = 2 * GIB
LITTLE_MEMORY = 1 * GIB
BUSY = 0.5  # share of a GPU's memory in use by others
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def gpu_memory(facts: Facts) -> Iterator[Finding]:
    """GPUs whose memory others use."""
    for number, gpu in enumerate(facts.gpus if facts.uses_gpu else ()):
        if gpu.free < (1 - BUSY) * gpu.memory:
            yield Finding(
                "warning",
                f"GPU {number} ({gpu.name}): {size(gpu.memory - gpu.free)} of {size(gpu.memory)} are in use.",
                "See whose it is with `nvidia-smi`; wait, or take another GPU with CUDA_VISIBLE_DEVICES.",
            )


def vector_instructions(facts: Facts) -> Iterator[Finding]:
    """Vector instructions that the CPU has and torch does not use, or that it has not."""
    if facts.torch is None or facts.uses_gpu or not facts.cpu.flags:
        return
    best = "AVX512" if "avx512f" in facts.cpu.flags else "AVX2" if "avx2" in facts.cpu.flags else "DEFAULT"
    if (asked := facts.environment.get("ATEN_CPU_CAPABILITY")) and facts.torch.vector != best:
        yield Finding(
            "warning",
            f"ATEN_CPU_CAPABILITY={asked}: torch uses {facts.torch.vector} instructions where the CPU has {best}.",
            "unset ATEN_CPU_CAPABILITY",
        )
    elif best == "DEFAULT":
        yield Finding(
            "warning",
            f"The CPU ({facts.cpu.model}) has no AVX2: stages are several times slower on it.",
            "Run on another machine, or on a GPU.",
        )


def threads(facts: Facts) -> Iterator[Finding]:
    """Fewer threads than cores because a variable says so, or more than a container may run."""
    if facts.torch is None or facts.uses_gpu:
        return
    count, cores, quota = facts.torch.threads, facts.cpu.cores, facts.cpu.quota
    asked = next((name for name in THREADS if name in facts.environment), None)
    allowed = cores if quota is None else min(cores, max(1, round(quota)))
    if asked is not None and count < allowed:
        yield Finding(
            "warning",
            f"torch uses {count} of {allowed} cores: {asked}={facts.environment[asked]}.",
            f"unset {asked}, unless other processes use the rest.",
        )
    elif count > allowed:
        yield Finding(
            "warning",
            f"torch uses {count} threads, and may use {allowed} cores at a time: threads wait for each other.",
            f"export OMP_NUM_THREADS={allowed}",
        )


def half_precision_on_a_cpu(facts: Facts) -> Iterator[Finding]:
    """16-bit weights on a CPU that has no instructions for them."""
    if facts.wanted is None or facts.torch is None or facts.uses_gpu:
        return
    fast = {"avx512_bf16", "amx_bf16"} & facts.cpu.flags and facts.torch.bf16
    for dtype in dict.fromkeys(facts.wanted.dtypes):
        if dtype == "float16" or (dtype == "bfloat16" and not fast):
            why = "" if dtype == "float16" else ", which has neither AVX-512 BF16 nor AMX"
            yield Finding(
                "warning",
                f"{dtype} is slow on this CPU{why}.",
                'Set reference.dtype = "float32" for runs on a CPU: another dtype is another reference store.',
            )


def host_memory(facts: Facts) -> Iterator[Finding]:
    """Little memory, or less than the weights take."""
    memory, wanted = facts.memory, facts.wanted
    if wanted is not None and wanted.weights is not None and wanted.weights > memory.available:
        yield Finding(
            "warning",
            f"The weights of {wanted.model} take {size(wanted.weights)}, and {size(memory.available)} of memory are "
            "available.",
            "See `scoreonce estimate RUN.toml` for what the stages take and which setting to change.",
        )
    elif memory.available < LITTLE_MEMORY:
        yield Finding(
            "warning",
            f"{size(memory.available)} of {size(memory.total)} of memory are available.",
            "End other programs, or run on a machine with more.",
        )


def huge_pages(facts: Facts) -> Iterator[Finding]:
    """A kernel that gives a CPU's stages no huge pages."""
    if facts.torch is not None and not facts.uses_gpu and facts.memory.huge_pages == "never":
        yield Finding(
            "warning",
            "The kernel gives out no huge pages: stages are slower on a CPU without them.",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        )


def disks(facts: Facts) -> Iterator[Finding]:
    """Folders that cannot be written, and disks that are full or soon will be."""
    for disk in facts.disks:
        where = f"{disk.role} ({disk.path})"
        if not disk.writable:
            yield Finding(
                "error",
                f"{where} cannot be written: {disk.there} is read-only, or another user's.",
                f"Change the permissions of {disk.there}, or set another folder{_setting(disk.role)}.",
            )
        elif disk.free < LITTLE_ROOM:
            yield Finding(
                "error" if disk.free < NO_ROOM else "warning",
                f"{size(disk.free)} are free for {where}.",
                f"Free some space, or set another folder{_setting(disk.role)}.",
            )


def stores(facts: Facts) -> Iterator[Finding]:
    """Damaged files of the reference stores, and files that nothing reads."""
    for store in facts.stores.stores if facts.stores else ():
        if store.damaged:
            more = f" and {len(store.damaged) - 1:,} more" if len(store.damaged) > 1 else ""
            yield Finding(
                "warning",
                f"Store {store.key} ({store.model}): {store.damaged[0]}{more} damaged.",
                "Run `scoreonce score RUN.toml`: it sets damaged files aside and scores their completions again.",
            )
        if store.leftovers:
            yield Finding(
                "note",
                f"Store {store.key} ({store.model}): {store.leftovers:,} unfinished files.",
                "Nothing, if a command is writing there. Else `scoreonce store gc RUN.toml` removes them.",
            )
        if store.set_aside:
            yield Finding(
                "note",
                f"Store {store.key} ({store.model}): {store.set_aside:,} damaged files that were set aside.",
                "`scoreonce store gc RUN.toml` removes them.",
            )


def _setting(role: str) -> str:
    return {"out": " as out", "store": " as score.store", "cache": " in SCOREONCE_CACHE"}[role]


CHECKS: tuple[Check, ...] = (
    gpu_memory,
    vector_instructions,
    threads,
    half_precision_on_a_cpu,
    host_memory,
    huge_pages,
    disks,
    stores,
)
