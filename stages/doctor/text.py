"""An examination as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from scoreonce.pipeline.pages.numbers import size
from scoreonce.stages.doctor.examination import Examination
from scoreonce.stages.doctor.facts import Facts, Torch
from scoreonce.stages.doctor.software_checks import lacking

# Of the packages that are always needed, those that a bug report has to name.
SHOWN = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "polars", "pyarrow", "safetensors")
INDENT = " " * 11


def lines(found: Examination) -> Iterator[str]:
    """The machine, one line for each kind of fact, then what is wrong with it."""
    facts = found.facts
    yield _line("scoreonce", f"{found.scoreonce}, Python {facts.python}, {facts.platform}")
    versions = {package.name: package.version for package in facts.packages}
    yield _line("packages", ", ".join(f"{name} {versions.get(name) or 'missing'}" for name in SHOWN))
    yield _line("extras", ", ".join(_extras(facts)))
    yield from _torch(facts.torch, facts.torch_error)
    yield from _devices(facts)
    for path in found.attention:
        yield _line("attention" if path is found.attention[0] else "", _attention(path.layout, path.obstacle))
    missing = lacking(facts)
    tools = f"lacks {', '.join(missing)}" if missing else "C compiler, Python.h and Triton are there"
    yield _line("compile", f"torch.compile, used on GPUs alone: {tools}")
    pages = f", huge pages {facts.memory.huge_pages}" if facts.memory.huge_pages else ""
    yield _line("memory", f"{size(facts.memory.available)} of {size(facts.memory.total)} available{pages}")
    for disk in facts.disks:
        yield _line("disk" if disk is facts.disks[0] else "", f"{disk.role}: {size(disk.free)} free for {disk.path}")
    yield from _stores(facts)
    if facts.environment:
        yield _line("variables", ", ".join(f"{name}={value}" for name, value in facts.environment.items()))
    yield ""
    for finding in found.findings:
        yield f"{finding.level}: {finding.what}"
        yield f"  do: {finding.fix}"
    if not found.findings:
        yield "Nothing is wrong."


def _line(name: str, text: str) -> str:
    return f"{name:<{len(INDENT)}}{text}".rstrip()


def _extras(facts: Facts) -> Iterator[str]:
    for package in facts.packages:
        if package.extra:
            yield f"{package.name} {package.version or f'not installed ({package.extra})'}"


def _torch(torch: Torch | None, error: str) -> Iterator[str]:
    if torch is None:
        yield _line("torch", f"cannot be imported: {error}")
        return
    build = f"CUDA {torch.cuda}" if torch.cuda else f"ROCm {torch.hip}" if torch.hip else "a CPU"
    yield _line("torch", f"built for {build}; {torch.gpus} GPU{'' if torch.gpus == 1 else 's'} to use")


def _devices(facts: Facts) -> Iterator[str]:
    for number, gpu in enumerate(facts.gpus):
        capability = f", compute capability {gpu.capability[0]}.{gpu.capability[1]}" if gpu.capability else ""
        room = f"{size(gpu.free)} of {size(gpu.memory)} free"
        yield _line(f"GPU {number}", f"{gpu.name}, {room}, driver {gpu.driver}{capability}")
    cpu, torch = facts.cpu, facts.torch
    quota = "" if cpu.quota is None else f" (a quota of {cpu.quota:g})"
    used = ""
    if torch is not None:
        products = "oneDNN" if torch.onednn_faster else "torch's default library"
        bf16 = "in hardware" if {"avx512_bf16", "amx_bf16"} & cpu.flags else "emulated" if torch.bf16 else "none"
        threads = f"{torch.threads} thread{'' if torch.threads == 1 else 's'}"
        used = f", {threads}, {torch.vector}, float32 products by {products}, oneDNN bfloat16 {bf16}"
    yield _line("CPU", f"{cpu.model}, {cpu.cores} cores{quota}{used}")


def _attention(layout: str, obstacle: str) -> str:
    return f"{layout:<7} {f'no: {obstacle}' if obstacle else 'yes, where it is exact for the model'}"


def _stores(facts: Facts) -> Iterator[str]:
    if facts.stores is None:
        return
    if not facts.stores.stores:
        yield _line("store", f"none yet in {facts.stores.path}")
    for number, store in enumerate(facts.stores.stores):
        what = f"{store.completions:,} completions in {store.files:,} files, {size(store.bytes)}"
        problems = (("damaged", len(store.damaged)), ("unfinished", store.leftovers), ("set aside", store.set_aside))
        state = ", ".join(f"{count:,} {name}" for name, count in problems if count) or "all of the size written"
        yield _line("" if number else "store", f"{store.key} ({store.model}): {what}; {state}")
    if facts.stores.address:
        yield _line("", f"the local copy of {facts.stores.address}, which was not looked at")
    elif facts.stores.stores:
        yield _line("", "contents are compared by `scoreonce store verify RUN.toml`")
