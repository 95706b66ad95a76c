"""The figures of benchmarks/gpu.py as Markdown: a row per setting of either side, for each shape of model."""

from __future__ import annotations

from typing import Any

COLUMNS = (
    "profile",
    "side",
    "setting",
    "scoring, pairs/s",
    "MFU",
    "training, pairs/s",
    "MFU",
    "training, peak GiB",
    "times the padded loop: scoring, training",
)


def table(figures: dict[str, Any]) -> str:
    """The page of all figures; what did not run is listed at its end."""
    measured, ceiling = figures["measured"], figures["ceiling, FLOP/s"]
    lines = [
        f"# On a GPU: {measured['device']}, {measured['date']}",
        "",
        f"torch {measured['torch']}, transformers {measured['transformers']}, {measured['dtype']}, random weights. A "
        f"bf16 product of 8,192 runs at {figures['bf16 product, FLOP/s'] / 1e12:.0f} TFLOP/s; MFU is against "
        f"{ceiling / 1e12:.0f}. The padded loop stands in for TRL: benchmarks/gpu_padded.py.",
    ]
    for shape, found in figures["shapes"].items():
        if "parameters" not in found:
            continue
        lines += ["", f"## {shape}: {found['parameters'] / 1e9:.2f} B parameters", "", f"| {' | '.join(COLUMNS)} |"]
        lines.append("|---" * len(COLUMNS) + "|")
        for profile, sides in found["profiles"].items():
            base = _best(sides["padded"])
            for side in ("padded", "ours"):
                for setting, made in sides[side].items():
                    if made is not None:
                        lines.append(_line(profile, side, setting, made, base, ceiling))
        parts = {f"agreement, {layout}": made for layout, made in found.get("agreement", {}).items()}
        parts |= {name: made for name, made in found.items() if name.startswith(("head", "phases"))}
        for part, made in parts.items():
            if made is not None:
                lines += ["", f"{part.capitalize()}: {brief(made)}."]
    if figures["left out"]:
        lines += ["", "Left out:", *(f"- {what}" for what in figures["left out"])]
    return "\n".join(lines) + "\n"


def _best(settings: dict[str, Any]) -> dict[str, float]:
    """The fastest of each over the settings that ran."""
    ran = [made for made in settings.values() if made is not None]
    keys = ("scoring, pairs/s", "training, pairs/s")
    return {key: max(made[key] for made in ran) for key in keys} if ran else {}


def _line(profile: str, side: str, setting: str, made: dict[str, Any], base: dict[str, float], ceiling: float) -> str:
    shares = [f"{made[f'{what}, FLOP/s'] / ceiling:.1%}" for what in ("scoring", "training")]
    rates = [f"{made[f'{what}, pairs/s']:.4g}" for what in ("scoring", "training")]
    times = ", ".join(f"{made[key] / value:.2f}" for key, value in base.items())
    peak = f"{made['training, peak GiB']:.1f}" if "training, peak GiB" in made else ""
    return f"| {' | '.join([profile, side, setting, rates[0], shares[0], rates[1], shares[1], peak, times])} |"


def brief(found: dict[str, Any] | None) -> str:
    """The numbers of one measurement in a line."""
    shown = {key: value for key, value in (found or {}).items() if isinstance(value, float)}
    return ", ".join(f"{key} {value:.4g}" for key, value in shown.items()) if found else "left out"
