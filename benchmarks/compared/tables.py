"""The figures of peers.json as Markdown: the whole page, the section of docs/benchmarks.md, and the README's table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine

ROOT = Path(__file__).resolve().parents[2]
AVX512 = ROOT / "benchmarks" / "results" / "peers.json"
AVX2 = AVX512.with_name("peers_avx2.json")
MACHINES = {"AVX-512": AVX512, "AVX2": AVX2}
STAGES = {"score": "scoring", "train": "training"}
SIDES = {"default": "TRL", "trl": "TRL, tuned", "ours": "scoreonce"}
TUNED = {"trl": "TRL", "ours": "scoreonce"}
MIB, GIGA = 2**20, 1e9

Figures = dict[str, Any]
Machines = Mapping[str, Figures]  # by the name of what sets them apart


def page(figures: Figures) -> str:
    """Everything that was measured."""
    parts = [_setting(figures), _side_by_side(figures), _sweep(figures), _start_up(figures), _shares(figures)]
    parts += [_phases(figures), _micro_batches(figures)]
    return "# TRL and scoreonce side by side\n\n" + "\n".join(parts)


def docs_section(machines: Machines) -> str:
    """Of each machine rates, shares of its GEMM rate, memory and the sweep, with the date; the setting is the same."""
    parts = [_setting(next(iter(machines.values())))]
    for name, figures in machines.items():
        page = MACHINES[name].with_suffix(".md").name
        more = f"All figures: [{page}](../benchmarks/results/{page}); `make bench ONLY=peers` measures again."
        parts += [f"### With {name}\n", _side_by_side(figures), _sweep(figures), _shares(figures)]
        parts.append(f"{machine.line(figures['measured'])} {more}\n")
    return "\n" + "\n".join(parts)


def readme_section(machines: Machines) -> str:
    """One small table: of each machine pairs per second, and the ratios to both TRL configurations."""
    head = ["pairs", "stage"]
    for name in machines:
        head += [f"{name}: pairs/s", "to TRL", "to TRL, tuned"]
    first = next(iter(machines.values()))
    cells = [
        [first["profiles"][profile]["title"], STAGES[stage]]
        + [cell for figures in machines.values() for cell in _rate_and_ratios(figures["profiles"][profile], stage)]
        for profile in first["profiles"]
        for stage in STAGES
    ]
    dates = ", ".join(f"{figures['measured']['date']} with {name}" for name, figures in machines.items())
    model = f"a Llama of {first['model']['parameters'] / 1e6:.1f} M parameters, {first['dtype']}"
    where = f"{first['measured']['cores']} cores of {first['measured']['machine']}"
    return f"\n{table(head, cells)}\nMeasured {dates}: {model} on {where}.\n"


def _rate_and_ratios(entry: Figures, stage: str) -> list[str]:
    faster = [entry["ratio"][f"{stage} to {side}"] for side in ("default", "trl")]
    return [f"{entry['pairs/s'][f'ours {stage}']:.2f}", f"**{faster[0]:.1f}**", f"{faster[1]:.1f}"]


@dataclass(frozen=True)
class Section:
    """A generated part of a document, between two markers."""

    path: Path
    name: str
    make: Callable[[Machines], str]

    @property
    def start(self) -> str:
        """The marker before it."""
        return f"<!-- {self.name}: made by benchmarks/peers.py -->\n"

    @property
    def end(self) -> str:
        """The marker after it."""
        return f"<!-- /{self.name} -->"

    def on_disk(self) -> str:
        """What the figures on disk give; empty without figures."""
        machines = {name: json.loads(path.read_text()) for name, path in MACHINES.items() if path.exists()}
        return self.make(machines) if machines else ""

    def found_in(self, text: str) -> str:
        """What stands between the markers of a text."""
        return text.partition(self.start)[2].partition(self.end)[0]

    def put_into(self, text: str, section: str) -> str:
        """The text with another section between its markers."""
        before, _, rest = text.partition(self.start)
        return f"{before}{self.start}{section}{self.end}{rest.partition(self.end)[2]}"


SECTIONS = (
    Section(ROOT / "README.md", "speed", readme_section),
    Section(ROOT / "docs" / "benchmarks.md", "peers", docs_section),
)


def into_documents() -> None:
    """Put the figures on disk between the markers of every document that shows them."""
    for section in SECTIONS:
        text = section.path.read_text(encoding="utf-8")
        section.path.write_text(section.put_into(text, section.on_disk()), encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _setting(figures: Figures) -> str:
    shape = figures["model"]
    pairs = "Real pairs" if figures["pairs are real"] else "Generated pairs"
    return (
        f"{pairs}, a Llama of {shape['parameters'] / 1e6:.1f} M parameters (width {shape['width']}, {shape['layers']} "
        f"layers, vocabulary {shape['vocabulary']:,}), {figures['dtype']} on {figures['device']}; the same token ids, "
        "pairs per step, optimizer and learning rate on both sides, in turn, each in a process of its own; medians. "
        "TRL as it comes puts 8 pairs in a micro-batch and pads them; tuned, as many as are fastest here.\n"
    )


def _side_by_side(figures: Figures) -> str:
    head = [
        "pairs",
        "stage",
        *(f"{name}, pairs/s" for name in SIDES.values()),
        "ratio",
        "to tuned",
        *(f"{name}, peak MiB" for name in SIDES.values()),
        "ratio",
        "to tuned",
    ]
    return table(head, (_compared(entry, stage) for entry in figures["profiles"].values() for stage in STAGES))


def _compared(entry: Figures, stage: str) -> list[str]:
    rates, peaks = ([entry[what][f"{side} {stage}"] for side in SIDES] for what in ("pairs/s", "peak, bytes"))
    faster, smaller = (
        [entry["ratio"][f"{stage} to {side}{of}"] for side in ("default", "trl")] for of in ("", ", memory")
    )
    return [
        entry["title"],
        STAGES[stage],
        *(f"{rate:.2f}" for rate in rates),
        f"**{faster[0]:.2f}**",
        f"{faster[1]:.2f}",
        *(f"{peak / MIB:,.0f}" for peak in peaks),
        f"**{smaller[0]:.2f}**",
        f"{smaller[1]:.2f}",
    ]


def _sweep(figures: Figures) -> str:
    sweep = figures["sweep"]
    sides = (
        f"{name} {sweep[side]['seconds']:.0f} s with {sweep[side]['reference passes']:.0f} reference passes"
        for side, name in SIDES.items()
    )
    faster = sweep["ratio"]
    return (
        f"A sweep of {sweep['runs']} trainings (methods x betas, {sweep['pairs']} HH pairs, {sweep['steps']} step "
        f"each): {', '.join(sides)}; ratio **{faster['default']:.2f}**, to tuned {faster['trl']:.2f}.\n"
    )


def _start_up(figures: Figures) -> str:
    rows = (
        [
            entry["title"],
            *(f"{entry['start to first step, s'][side]:.1f}" for side in TUNED),
            format(entry["TRL's reference passes in training"], ".0f"),
            f"{entry['losses apart']:.1e}",
        ]
        for entry in figures["profiles"].values()
    )
    head = ["pairs", "TRL, s", "scoreonce, s", "TRL's reference passes then", "losses of a step apart, at most"]
    what = "From the start of the process to the end of the first step, reference scored before"
    return f"{what}:\n\n{table(head, rows)}"


def _shares(figures: Figures) -> str:
    gemm = figures["GEMM, FLOP/s"]
    rows = (
        [
            entry["title"],
            name,
            *(_share(entry["FLOP/s"][f"{side} {stage}"], figures) for side in SIDES),
            *(f"{entry['FLOP of a pair'][f'{side} {stage}'] / GIGA:.1f}" for side in TUNED),
        ]
        for entry in figures["profiles"].values()
        for stage, name in STAGES.items()
    )
    head = ["pairs", "stage", *SIDES.values(), "TRL needs, GFLOP a pair", "scoreonce needs"]
    rates = ", ".join(f"{name} {rate / GIGA:,.0f} GFLOP/s" for name, rate in gemm.items())
    return (
        f"Square matrix products: {rates}. The share of it that each side reaches with what its own layout needs (a "
        "prompt once per pair, or once per completion; padding and recomputation count nothing):\n\n"
        f"{table(head, rows)}"
    )


def _phases(figures: Figures) -> str:
    entries = figures["profiles"].values()
    names = list(next(iter(entries))["inside"]["phases"])
    head = ["phase", *(entry["title"] for entry in entries)]
    rows = [[name, *(_phase(entry["inside"]["phases"][name], figures) for entry in entries)] for name in names]
    rows.append(["DPO step / SFT step", *(f"{entry['inside']['DPO step over SFT step']:.3f}" for entry in entries)])
    return f"Inside scoreonce's step, tokens/s and share of the GEMM rate:\n\n{table(head, rows)}"


def _phase(phase: Figures, figures: Figures) -> str:
    share = "" if phase["FLOP/s"] is None else f", {_share(phase['FLOP/s'], figures)}"
    return f"{phase['tokens/s']:,.0f}{share}"


def _micro_batches(figures: Figures) -> str:
    rows = (
        [
            entry["title"],
            STAGES[stage],
            str(entry["TRL's micro-batches"][stage]),
            ", ".join(f"{size}: {1 / seconds:.2f}" for size, seconds in found.items()),
        ]
        for entry in figures["profiles"].values()
        for stage, found in entry["TRL's seconds a pair by micro-batch"].items()
    )
    head = ["pairs", "stage", "micro-batch used", "pairs/s by micro-batch"]
    return f"What TRL was tried with:\n\n{table(head, rows)}"


def _share(rate: float, figures: Figures) -> str:
    return f"{rate / figures['GEMM, FLOP/s'][figures['dtype']]:.0%}"
