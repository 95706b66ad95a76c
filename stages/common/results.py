"""What the stages return: where things are, and the tables as polars frames, read when asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import read_json
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import JUDGEMENTS, SAMPLES, SCORES, RunPaths, Split

if TYPE_CHECKING:
    from scoreonce.pipeline.evaluation.standings import Standings
    from scoreonce.pipeline.samples.figures import SampleFigures
    from scoreonce.pipeline.templates.preview import PairText
    from scoreonce.pipeline.text.rows_to_pairs import QuarantinedRow
    from scoreonce.schemas.manifests import PairCounts, PairsManifest


@dataclass(frozen=True)
class PrepareResult:
    """What `prepare` made, or found up to date. `preview` has the first pairs as text, if it made them."""

    paths: RunPaths
    manifest: PairsManifest
    preview: tuple[PairText, ...] = field(default=(), repr=False)

    @property
    def counts(self) -> PairCounts:
        """Rows read, pairs in each split, rows in quarantine and why."""
        return self.manifest.counts

    def pairs(self, split: Split) -> pl.DataFrame:
        """The pairs of a split: rows of `schemas.tables.Pair`."""
        return read_frame(self.paths.pairs(split))

    def quarantine(self) -> pl.DataFrame:
        """The rows that cannot be used, each with its reason: rows of `schemas.tables.Quarantine`."""
        return read_frame(self.paths.quarantine)


@dataclass(frozen=True)
class PreviewResult:
    """The first pairs that `prepare` would make, as text, and the unusable rows before the last of them."""

    pairs: tuple[PairText, ...]
    refused: tuple[QuarantinedRow, ...]


@dataclass(frozen=True)
class PushResult:
    """What `push` sent, by its name in the repository, and the address of the commit; None of a dry run."""

    paths: RunPaths
    repository: str
    url: str | None
    files: dict[str, Path | bytes] = field(repr=False)


@dataclass(frozen=True)
class ScoreResult:
    """What `score` did: completions, positions and seconds over all processes.

    After a part was scored, `missing` completions of other parts are not in the store yet; the part that leaves none
    missing writes the pair tables.
    """

    paths: RunPaths
    scored: int
    reused: int
    tokens: int
    seconds: float
    missing: int = 0

    def pairs(self, split: Split) -> pl.DataFrame:
        """The reference columns of each distinct pair: rows of `schemas.tables.ReferencePair`.

        Raises `InputError` while completions of other parts are missing.
        """
        if self.missing:
            raise InputError(
                "The pair tables are not written yet.",
                found=f"{self.missing:,} completions of other parts were not in the store when this part was done",
                where=str(self.paths.reference(split)),
                fix="Score the other parts, or call `score` without `part`, which scores what is missing.",
            )
        return read_frame(self.paths.reference(split))


@dataclass(frozen=True)
class TrainResult:
    """A finished training run. `steps_done` is 0 where it was finished before."""

    paths: RunPaths
    steps_done: int

    @property
    def model(self) -> Path:
        """The policy, a Hugging Face folder."""
        return self.paths.policy

    @property
    def metrics(self) -> pl.DataFrame:
        """One row per optimizer step, columns named as in TRL's dashboards."""
        return read_frame(self.paths.training / "metrics.parquet")

    def steps(self) -> pl.DataFrame:
        """One row per pair and step: rows of `schemas.tables.StepPair`."""
        return read_frame(self.paths.training / "steps.parquet")

    def held_out(self) -> pl.DataFrame:
        """One row per evaluation while training: rows of `schemas.tables.HeldOutStep`; none without evaluate.every."""
        from scoreonce.schemas.tables import HeldOutStep  # dataframely, which most results do without

        path = self.paths.held_out
        return read_frame(path) if path.is_file() else HeldOutStep.create_empty()


@dataclass(frozen=True)
class MergeResult:
    """A LoRA policy as a whole model."""

    paths: RunPaths

    @property
    def model(self) -> Path:
        """Base model and adapter in one, a Hugging Face folder."""
        return self.paths.merged


@dataclass(frozen=True)
class EvaluateResult:
    """A policy on held-out pairs. `summary` has the figures of `pipeline.evaluation.summary.evaluation_summary`."""

    paths: RunPaths
    summary: dict[str, Any] = field(repr=False)

    def pairs(self) -> pl.DataFrame:
        """One row per distinct held-out pair: rows of `schemas.tables.EvaluationPair`."""
        return read_frame(self.paths.evaluation_pairs)

    @property
    def verdict(self) -> dict[str, Any]:
        """What became of the run that made the policy: state, headline, paragraph, findings with rules and advice."""
        found: dict[str, Any] = read_json(self.paths.evaluation_verdict)
        return found


@dataclass(frozen=True)
class SampleResult:
    """The completions of one label. `sampled` were written now, the others were there before."""

    paths: RunPaths
    label: str
    sampled: int
    figures: SampleFigures = field(repr=False)

    def samples(self) -> pl.DataFrame:
        """One row per completion: rows of `schemas.tables.Sample`."""
        return read_frame(self.paths.samples(self.label) / SAMPLES)


@dataclass(frozen=True)
class AuditResult:
    """What an audit found. `exceeded` lists what its `fail_on` names and was found."""

    paths: RunPaths
    document: dict[str, Any] = field(repr=False)
    exceeded: tuple[str, ...] = ()

    @property
    def findings(self) -> list[dict[str, Any]]:
        """One record per check, worst severity first; `rows` pairs are concerned."""
        findings: list[dict[str, Any]] = self.document["findings"]
        return findings

    @property
    def page(self) -> Path:
        """The audit as an HTML page."""
        return self.paths.audit_page

    def pairs(self) -> pl.DataFrame:
        """One row per pair of both splits, with its measures and a boolean column per finding."""
        return read_frame(self.paths.audit_pairs)


@dataclass(frozen=True)
class CompareResult:
    """A comparison. `recommended` is the candidate to take, None where the data cannot tell; `reason` says why.

    `ranked_by`: held-out accuracy, or the true reward or the judge that knows all trainings.
    """

    paths: RunPaths
    recommended: str | None
    reason: str
    standings: Standings = field(repr=False)
    ranked_by: str

    @property
    def page(self) -> Path:
        """The comparison as an HTML page."""
        return self.paths.comparison_page

    def policies(self, candidate: str) -> dict[str, Path]:
        """The folders of a candidate's policies, by training label, in the order of the seeds."""
        rows = self.trials().filter((pl.col("candidate") == candidate) & pl.col("failure").is_null())
        return {label: replace(self.paths, label=label).policy for label in rows["label"]}

    def trials(self) -> pl.DataFrame:
        """One row per training: candidate, seed, label, held-out figures, seconds, peak bytes of memory, failure."""
        return read_frame(self.paths.trials)


@dataclass(frozen=True)
class JudgeResult:
    """A judgement. `summary` has its figures: `scores` of a judge that scores, `comparison` where two were compared."""

    folder: Path
    summary: dict[str, Any] = field(repr=False)

    def scores(self) -> pl.DataFrame:
        """One row per sample: rows of `schemas.tables.SampleScore`; for a judge that scores each completion."""
        return read_frame(self.folder / SCORES)

    def judgements(self) -> pl.DataFrame:
        """One row per comparison: rows of `schemas.tables.Judgement`; where two labels were compared."""
        return read_frame(self.folder / JUDGEMENTS)


@dataclass(frozen=True)
class PairsResult:
    """Graded lists for `prepare`: the file, and counts of lists, completions and what was left out."""

    path: Path
    counts: dict[str, int]


@dataclass(frozen=True)
class ReportResult:
    """The page about some training runs."""

    page: Path
    labels: tuple[str, ...]
