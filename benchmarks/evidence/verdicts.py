"""For each claim: the comparisons that decide it, from the rows of its trainings, and what else there is to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import polars as pl
from paired import NATS, Comparison, chosen, difference, frontier_areas, slopes

REWARD, KL = "test_reward", "test_kl"


def collapsed(rows: pl.DataFrame, reference: float) -> pl.DataFrame:
    """Whether a training diverged, or its policy earns less than the reference: `collapsed`."""
    return rows.with_columns((pl.col(REWARD) < reference).alias("collapsed"))


def beta_gap(rows: pl.DataFrame, reference: float) -> list[Comparison]:
    """The slope of reward over ln beta: negative in the half with a low gap, positive in the other."""
    low, high = (slopes(rows.filter(pl.col("part") == part)) for part in ("low gap", "high gap"))
    return [
        Comparison("slope of reward over ln β, low gap: below 0", -1, tuple(low)),
        Comparison("slope of reward over ln β, high gap: above 0", 1, tuple(high)),
    ]


def beta_noise(rows: pl.DataFrame, reference: float) -> list[Comparison]:
    """Under flips, each part of beta-DPO earns more than DPO, and the whole more than its instance level."""
    return _beta_parts((f"{flips:.0%} flipped", own) for flips, own in _noisy(rows))


def beta_outliers(rows: pl.DataFrame, reference: float) -> list[Comparison]:
    """The same with near ties and with outliers."""
    best = chosen(rows)
    return _beta_parts((part, best.filter(pl.col("part") == part)) for part in best["part"].unique(maintain_order=True))


def _beta_parts(cases: Iterable[tuple[str, pl.DataFrame]]) -> list[Comparison]:
    return [
        difference(own, first, second, REWARD, f"{first} − {second}, {case}: above 0")
        for case, own in cases
        for first, second in (
            ("beta only", "DPO"),
            ("filter only", "DPO"),
            ("both (β-DPO)", "DPO"),
            ("both (β-DPO)", "both, instance level"),
        )
    ]


def alpha_margin(rows: pl.DataFrame, reference: float) -> list[Comparison]:
    """alpha-DPO earns more than DPO, SimPO and each ablation."""
    best = chosen(rows)
    others = [arm for arm in rows["arm"].unique(maintain_order=True) if arm not in ("α-DPO", "α = 0")]
    return [difference(best, "α-DPO", other, REWARD, f"α-DPO − {other}: above 0") for other in others]


def epsilon_frontier(rows: pl.DataFrame, reference: float) -> list[Comparison]:
    """epsilon-DPO gains more reward than DPO at the same KL."""
    areas = frontier_areas(rows, reference, NATS)
    return [difference(areas, "ε-DPO", "DPO", "area", f"gain up to {NATS:g} nats, ε-DPO − DPO: above 0")]


def epsilon_decisions(rows: pl.DataFrame, reference: float) -> list[Comparison]:
    """Decided in bfloat16, or with a dead band, epsilon-DPO gains more reward at the same KL than in float32."""
    areas = frontier_areas(rows, reference, NATS)
    others = [arm for arm in areas["arm"].unique(maintain_order=True) if arm not in ("DPO", "ε-DPO")]
    return [
        difference(areas, arm, "ε-DPO", "area", f"gain up to {NATS:g} nats, {arm} − in float32: above 0")
        for arm in others
    ]


def learning_rates(rows: pl.DataFrame, reference: float) -> list[Comparison]:
    """At 4 and 16 times the rate MinorDPO earns more than DPO, and stays nearer to the reference."""
    return [
        comparison
        for number, times in ((1, 4), (2, 16))
        for own in [rows.filter(pl.col("candidate") == number)]
        for comparison in (
            difference(own, "MinorDPO", "DPO", REWARD, f"reward, MinorDPO − DPO, {times} times the rate: above 0"),
            difference(own, "MinorDPO", "DPO", KL, f"KL, MinorDPO − DPO, {times} times the rate: below 0", -1),
        )
    ]


def sft_deviation(rows: pl.DataFrame, reference: float) -> list[Comparison]:
    """MinorSFT stays nearer to the reference at each rate, and gains more reward at the same KL."""
    areas = frontier_areas(rows, reference, NATS)
    return [
        *(
            difference(own, "MinorSFT", "SFT", KL, f"KL, MinorSFT − SFT, {times} times the rate: below 0", -1)
            for number, times in enumerate((1, 4, 16))
            for own in [rows.filter(pl.col("candidate") == number)]
        ),
        difference(areas, "MinorSFT", "SFT", "area", f"gain up to {NATS:g} nats, MinorSFT − SFT: above 0"),
    ]


def known_flips(rows: pl.DataFrame, reference: float) -> list[Comparison]:
    """Under flips, each robust method loses less than DPO."""
    others = [arm for arm in rows["arm"].unique(maintain_order=True) if arm != "DPO"]
    return [
        difference(own, arm, "DPO", REWARD, f"{arm} − DPO, {flips:.0%} flipped: above 0")
        for flips, own in _noisy(rows)
        for arm in others
    ]


def frontier(rows: pl.DataFrame, reference: float) -> list[Comparison]:
    """Each method's gain at the same KL, against DPO's; claims nothing, so that only differences are shown."""
    areas = frontier_areas(rows, reference, NATS)
    return [
        difference(areas, arm, "DPO", "area", f"gain up to {NATS:g} nats, {arm} − DPO")
        for arm in areas["arm"].unique(maintain_order=True)
        if arm != "DPO"
    ]


def _noisy(rows: pl.DataFrame) -> Iterator[tuple[float, pl.DataFrame]]:
    """The chosen rows by share of flipped labels, where there are any."""
    best = chosen(rows)
    for flips in sorted(set(best["flips"]) - {0.0}):
        yield flips, best.filter(pl.col("flips") == flips)


COMPARISONS: dict[str, Callable[[pl.DataFrame, float], list[Comparison]]] = {
    function.__name__: function
    for function in (
        beta_gap,
        beta_noise,
        beta_outliers,
        alpha_margin,
        epsilon_frontier,
        epsilon_decisions,
        learning_rates,
        sft_deviation,
        known_flips,
        frontier,
    )
}


def remarks(name: str, rows: pl.DataFrame, reference: float) -> list[str]:
    """Sentences on what the comparisons of a claim do not say."""
    known = {"alpha_margin": _same_as_simpo, "learning_rates": _collapses}
    return known[name](rows, reference) if name in known else []


def _same_as_simpo(rows: pl.DataFrame, reference: float) -> list[str]:
    """How far α = 0 is from SimPO, which it must be."""
    simpo, zero = (rows.filter(pl.col("arm") == arm) for arm in ("SimPO", "α = 0"))
    both = simpo.join(zero, on=["candidate", "seed"], how="inner")
    apart = {each: float((both[each] - both[f"{each}_right"]).abs().max()) for each in (REWARD, KL)}
    return [
        f"With α = 0 it is SimPO: over {len(both)} pairs of trainings, rewards differ by at most {apart[REWARD]:.1g} "
        f"and KLs by at most {apart[KL]:.1g} nats."
    ]


def _collapses(rows: pl.DataFrame, reference: float) -> list[str]:
    """The share of trainings that made the policy worse than the reference."""
    shares = (
        collapsed(rows, reference)
        .group_by("arm", "candidate", maintain_order=True)
        .agg(pl.col("collapsed").sum(), pl.len())
    )
    said = [
        f"{arm} {', '.join(f'{row[2]} of {row[3]}' for row in own.sort('candidate').iter_rows())}"
        for (arm,), own in shares.group_by("arm", maintain_order=True)
    ]
    return [
        f"Trainings that diverged or earned less than the reference, at 1, 4 and 16 times the rate: {'; '.join(said)}."
    ]
