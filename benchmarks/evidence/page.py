"""The generated part of docs/evidence.md, and the tables of trainings that it is made of."""

from __future__ import annotations

from pathlib import Path

import figures
import polars as pl
import rates
from claims import CLAIMS, Claim
from paired import ERROR, Comparison, adjusted, verdict
from trials import Trials
from verdicts import COMPARISONS, remarks

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "evidence.md"
TABLES = ROOT / "benchmarks" / "results" / "evidence"
START, END = "<!-- made by benchmarks/evidence/run.py -->\n", "<!-- /made -->"
COMMAND = "python benchmarks/evidence/run.py"
RATES_SAY = (
    "Mean true reward on the validation prompts, and KL in nats, of two seeds that no claim has; chosen rates bold. "
    f"`{COMMAND} rates`"
)
SETTINGS = {"learning_rate": pl.Float64, "beta": pl.Float64}  # that figures and comparisons read


def table(name: str, trials: Trials, seeds: int) -> pl.DataFrame:
    """One row per training of a claim, of the seeds whose every training is done; none without such a seed."""
    planned = list(CLAIMS[name].planned(seeds))
    unfinished = {each.trial.seed for each in planned if each.trial.key not in trials.done}
    reference = trials.reference()["test_reward"]
    rows = [
        {
            "arm": each.arm,
            "candidate": each.candidate,
            **{key: dict(each.trial.settings).get(key) for key in SETTINGS},
            "flips": each.trial.flips,
            "part": each.trial.part,
            "seed": each.trial.seed,
            "reference_reward": reference,
            **trials.done[each.trial.key],
        }
        for each in planned
        if each.trial.seed not in unfinished
    ]
    return pl.DataFrame(rows, schema_overrides=SETTINGS, infer_schema_length=None)


def write(name: str, rows: pl.DataFrame) -> None:
    """A claim's table and figure, and the page's generated part."""
    TABLES.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(TABLES / f"{name}.parquet")
    figures.draw(name, rows, reference_reward(rows), ROOT / "docs" / "evidence" / f"{name}.svg")
    replace(PAGE, START, generated())


def replace(path: Path, start: str, text: str) -> None:
    """Set the part of a page between `start` and the next end."""
    before, _, rest = path.read_text(encoding="utf-8").partition(start)
    path.write_text(f"{before}{start}{text}{END}{rest.partition(END)[2]}", encoding="utf-8")


def reference_reward(rows: pl.DataFrame) -> float:
    """True reward of the reference on the test split."""
    return float(rows["reference_reward"][0])


def generated() -> str:
    """The claims with their verdicts, then a section for each, from the tables on disk."""
    tables = {name: pl.read_parquet(path) for name in CLAIMS if (path := TABLES / f"{name}.parquet").exists()}
    every = pl.concat([rows.select("key", "cpu_seconds") for rows in tables.values()]).unique("key")
    each = float(every["cpu_seconds"].mean())
    lines = ["| claim | of | verdict | seeds | trainings | CPU time |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [_line(name, claim, tables.get(name), each) for name, claim in CLAIMS.items()]
    minutes = every["cpu_seconds"].sum() / 60
    lines += ["", f"In all {len(every):,} trainings, {minutes:.0f} minutes of one core; claims share some."]
    lines += ["", "## Chosen rates", "", RATES_SAY, "", *rates.lines()]
    for name, rows in tables.items():
        lines += ["", *section(name, CLAIMS[name], rows)]
    return "\n".join([*lines, ""])


def _line(name: str, claim: Claim, rows: pl.DataFrame | None, each: float) -> str:
    if rows is None:
        planned = len({one.trial for one in claim.planned(5)})
        cost = f"about {planned * each / 3600:.2f} h of one core for five seeds: `{COMMAND} {name}`"
        return f"| {claim.title} | {claim.says} | not run | | {planned} | {cost} |"
    found = COMPARISONS[name](rows, reference_reward(rows))
    said = f"[{verdict(found) if claim.decides else 'see below'}](#{name.replace('_', '-')})"
    seeds, minutes = rows["seed"].n_unique(), rows["cpu_seconds"].sum() / 60
    return f"| {claim.title} | {claim.says} | {said} | {seeds} | {len(rows)} | {minutes:.0f} min |"


def section(name: str, claim: Claim, rows: pl.DataFrame) -> list[str]:
    """What decided a claim: figure, differences with intervals, and remarks."""
    reference = reference_reward(rows)
    found = COMPARISONS[name](rows, reference)
    claimed = ", and its sign as claimed" if claim.decides else ""
    return [
        f"## {name.replace('_', '-')}",
        "",
        f"{claim.title} ({claim.says}). `{COMMAND} {name}`",
        "",
        f"![{claim.title}: every training](evidence/{name}.svg)",
        "",
        f"| difference{claimed} | mean | 95 % interval | p (Holm) | | seeds to tell |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_compared(each, p, claim) for each, p in zip(found, adjusted(found), strict=True)),
        "",
        *(f"- {said}" for said in remarks(name, rows, reference)),
    ]


def _compared(each: Comparison, p: float, claim: Claim) -> str:
    interval = each.interval
    said = "as claimed" if interval.mean * each.sign > 0 else "**against the claim**"
    said = "" if p >= ERROR else said if claim.decides else "differs"
    needed = f"{each.seeds_to_tell:,}" if not said and each.seeds_to_tell else ""
    numbers = f"{interval.mean:+.3f} | {interval.low:+.3f} to {interval.high:+.3f} | {p:.2g}"
    return f"| {each.says} | {numbers} | {said} | {needed} |"
