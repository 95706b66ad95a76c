"""What a judge says of sampled completions.

    scoreonce judge configs/x.toml --label dpo                          scores, by a reward model or a function
    scoreonce judge configs/x.toml --label dpo --against reference      a win rate too; any judge

Writes <out>/judge/<name>/: scores.parquet (a row per sample) where the judge scores each completion, judgements.parquet
(a row per comparison, both orders) where two labels are compared, and manifest.json with the figures, last. Answers are
kept in answers.jsonl as they come, so that an interrupted or repeated judgement asks only for what is not there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.pipeline.judging.summary import judgement_summary, score_summary
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import JudgementManifest
from scoreonce.schemas.names import require_name
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256, write_parquet
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import JUDGEMENTS, MANIFEST, SAMPLES, SCORES, RunPaths
from scoreonce.stages.common.removal import remove
from scoreonce.stages.common.results import JudgeResult
from scoreonce.stages.config import Run
from scoreonce.stages.data.samples import read_samples, samples_manifest
from scoreonce.stages.judge import table
from scoreonce.stages.judge.answers import Answers
from scoreonce.stages.judge.function import load_allowed
from scoreonce.stages.judge.questions import NO_VERDICT, ComparingJudge, ScoringJudge
from scoreonce.stages.judge.text import lines
from scoreonce.stages.outputs.at_address import at_address

logger = logging.getLogger(__name__)

AnyJudge = ScoringJudge | ComparingJudge


def written_unit(
    run: Run, *, label: str | None = None, against: str | None = None, name: str | None = None, **_: object
) -> str:
    """What `judge` with these arguments writes, as a unit of `stages.outputs`."""
    return f"judge/{name_of(RunPaths.of(run), label, against, name)}"


def name_of(paths: RunPaths, label: str | None, against: str | None, name: str | None) -> str:
    """The name of a judgement: the given one, or one made of the labels. Raises `InputError` for no folder's name."""
    own = label or paths.label
    return require_name(name or (own if against is None else f"{own}-against-{against}"), "--name")


@at_address("samples/*", writes=written_unit)
def judge(
    run: Run,
    *,
    label: str | None = None,
    against: str | None = None,
    name: str | None = None,
    allow_judge_function: bool = False,
    lock_timeout: float | None = None,
) -> JudgeResult:
    """Judge the samples of `label`, by default the training label, and compare them with those of `against`.

    `name` names the judgement; `allow_judge_function` lets the code of `judge.function` run. Another process that
    writes the same judgement is waited for, at most `lock_timeout` seconds. Raises `InputError` where there are no
    samples, no judge or several, where a judge that compares is given one label, and where the judge cannot be used.
    """
    paths = RunPaths.of(run)
    own, called = label or paths.label, name_of(paths, label, against, name)
    for each in (own, against):
        require_name(each or own, "--label and --against")
    samples = {each: read_samples(paths, each) for each in (own, against) if each is not None}
    if own == against:
        raise InputError(
            "A label cannot be compared with itself.",
            found=f"--label {own} --against {against}",
            where="--against",
            fix='Name the label of other samples: those of the reference are "reference".',
        )
    digests = {each: samples_manifest(paths, each).files[SAMPLES] for each in samples}
    folder = paths.judgement(called)
    with locked(paths, folder, f"the judgement {called}", timeout=lock_timeout):
        answers = Answers(folder / "answers.jsonl")
        try:
            asked = judge_of(run, answers, allow_judge_function=allow_judge_function)
            wanted = {"judge": asked.settings(), "label": own, "against": against, "samples": digests}
            if done := _up_to_date(folder / MANIFEST, wanted):
                logger.info("%s: up to date", folder)
                return JudgeResult(folder, done.figures)
            tables, figures = _judged(asked, samples, own, against)
        finally:
            answers.close()
        manifest = _write(folder, tables, JudgementManifest(name=called, figures=figures, files={}, **wanted), paths)
    logger.info("\n".join(lines(manifest, folder)))
    return JudgeResult(folder, figures)


def _up_to_date(path: Path, wanted: Mapping[str, Any]) -> JudgementManifest | None:
    """The manifest of a judgement that need not be done again; questions that a server failed are asked again."""
    if changed := manifests.changes(JudgementManifest, path, wanted):
        if path.exists():
            logger.info(manifests.again("Judging", changed, "judged"))
        return None
    done = manifests.read(JudgementManifest, path)
    failures: Any = done.figures["failures"]
    return None if set(failures) - {NO_VERDICT} else done


def judge_of(run: Run, answers: Answers, *, allow_judge_function: bool = False) -> AnyJudge:
    """The judge of [judge]. Raises `InputError` where it names none or several."""
    settings = run.judge
    named = [key for key in ("reward_model", "endpoint", "function") if getattr(settings, key) is not None]
    if len(named) != 1:
        raise InputError(
            "There has to be one judge.",
            found=" and ".join(f"judge.{key}" for key in named) or "no judge",
            where="[judge] of the run file",
            fix="Set one of judge.reward_model, judge.endpoint (with judge.model) and judge.function: docs/judge.md.",
        )
    if settings.function is not None:
        return load_allowed(settings.function, allowed=allow_judge_function)
    if settings.endpoint is not None:
        from scoreonce.stages.judge.endpoint import Endpoint

        return Endpoint(settings, answers)
    from scoreonce.stages.judge.reward_model import RewardModel  # torch

    return RewardModel(settings, run.compute, answers)


def _judged(
    asked: AnyJudge, samples: Mapping[str, pl.DataFrame], label: str, against: str | None
) -> tuple[dict[str, pl.DataFrame], dict[str, Any]]:
    """The tables of a judgement by file name, and its figures."""
    together = None if against is None else table.side_by_side(samples[label], samples[against])
    tables: dict[str, pl.DataFrame] = {}
    figures: dict[str, Any] = {"scores": None, "comparison": None, "failures": {}}
    if together is not None:
        figures["unmatched"] = {each: frame.height - together.height for each, frame in samples.items()}
    if asked.kind == "scores":
        scores = asked.scores([each for frame in samples.values() for each in table.completions(frame)])
        given, at = {}, 0
        for each, frame in samples.items():
            given[each] = (frame, scores[at : at + frame.height])
            at += frame.height
        tables[SCORES] = scored = table.score_table(given)
        figures["scores"] = score_summary(scored)
        if together is not None and against is not None:
            tables[JUDGEMENTS] = table.compared_by_scores(together, scored, label, against)
    elif together is None:
        raise InputError(
            "This judge compares two completions, and there is one label.",
            found=f"--label {label} without --against",
            where="--against",
            fix="Name other samples of the same prompts, --against reference for instance; or use a reward model.",
        )
    else:
        tables[JUDGEMENTS], figures["failures"] = _answered(asked, together)
    if JUDGEMENTS in tables:
        figures["comparison"] = judgement_summary(tables[JUDGEMENTS])
    return tables, figures


def _answered(asked: ComparingJudge, together: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """The comparisons with the judge's answers in both orders, and how many questions have none, by reason."""
    differ = [row for row, same in enumerate(together["completion"] == together["other_completion"]) if not same]
    own, other = table.matches(together[differ])
    found = asked.preferences([*own, *other])
    answers: tuple[list[float | None], list[float | None]] = ([None] * together.height, [None] * together.height)
    for place, row in enumerate(differ):
        second = found[len(differ) + place]
        answers[0][row], answers[1][row] = found[place], None if second is None else 1 - second
    failures = {reason: count for reason, count in asked.failures.items() if count}
    return table.compared_by_answers(together, *answers), failures


def _write(
    folder: Path, tables: Mapping[str, pl.DataFrame], manifest: JudgementManifest, paths: RunPaths
) -> JudgementManifest:
    """Write the tables, and the manifest last; returns it."""
    for stale in (MANIFEST, SCORES, JUDGEMENTS):
        remove(folder / stale, inside=paths.out)
    for name, frame in tables.items():
        write_parquet(folder / name, frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
    whole = manifest.model_copy(update={"files": {name: sha256(folder / name) for name in tables}})
    manifests.write(folder / MANIFEST, whole)
    return whole
