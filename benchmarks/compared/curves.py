"""What a sweep costs by the number of its trainings: lines through measured times, and the table and chart of them.

Methods, betas and seeds enter by their product alone: the trainings of a sweep cost the same but for noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TRAININGS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Cost:
    """Seconds of the first training, with all that comes before it, and of each further one."""

    first: float
    further: float

    @classmethod
    def through(cls, one: float, all_of_them: float, count: int) -> Cost:
        """Of what shares a reference pass: measured with one training and with `count`."""
        return cls(one, (all_of_them - one) / (count - 1))

    @classmethod
    def each(cls, seconds: Sequence[float]) -> Cost:
        """Of runs that share nothing: the mean of those that were measured."""
        mean = sum(seconds) / len(seconds)
        return cls(mean, mean)

    @classmethod
    def after_the_first(cls, seconds: Sequence[float]) -> Cost:
        """Of runs that find what the first one kept: that one, and the mean of the others."""
        first, *others = seconds
        return cls(first, sum(others) / len(others))

    def of(self, trainings: int) -> float:
        """Seconds of so many trainings."""
        return self.first + (trainings - 1) * self.further


def table(costs: Mapping[str, Cost], shared: str) -> str:
    """Seconds of every side by the number of trainings, and how many times those of `shared`; then the limit."""
    others = [name for name in costs if name != shared]
    head = ["trainings", *(f"{name}, s" for name in costs), *(f"{name} / {shared}" for name in others)]
    lines = [f"| {' | '.join(head)} |", f"|{'---:|' * len(head)}"]
    for count in TRAININGS:
        seconds = [f"{cost.of(count):,.0f}" for cost in costs.values()]
        ratios = [f"{costs[name].of(count) / costs[shared].of(count):.2f}" for name in others]
        lines.append(f"| {' | '.join([str(count), *seconds, *ratios])} |")
    limits = [f"{costs[name].further / costs[shared].further:.2f}" for name in others]
    lines.append(f"| {' | '.join(['in the limit', *('' for _ in costs), *limits])} |")
    return "\n".join(lines) + "\n"


def chart(costs: Mapping[str, Cost], measured: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """The lines, and as points what was measured, as a picture."""
    import altair as alt

    def rows() -> Iterator[dict[str, str | float]]:
        for name, cost in costs.items():
            yield from ({"side": name, "trainings": n, "hours": cost.of(n) / 3600} for n in TRAININGS)

    points = [
        {"side": name, "trainings": n, "hours": seconds / 3600}
        for name, found in measured.items()
        for n, seconds in found.items()
    ]
    x = alt.X("trainings:Q", scale=alt.Scale(type="log", base=2), title="methods × β × seeds")
    y = alt.Y("hours:Q", scale=alt.Scale(type="log"), title="hours")
    color = alt.Color("side:N", sort=list(costs), title=None)
    lines = alt.Chart(alt.Data(values=list(rows()))).mark_line().encode(x=x, y=y, color=color)
    marks = alt.Chart(alt.Data(values=points)).mark_point(filled=True, size=60).encode(x=x, y=y, color=color)
    (lines + marks).properties(width=520, height=300).save(path)
