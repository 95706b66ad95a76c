"""Several trainings on the same pairs and scores, ranked on the same held-out pairs: which one to take.

    scoreonce compare configs/x.toml --method dpo,beta_dpo --set train.beta=0.05,0.1 --seeds 3

Prepares and scores what is not done yet, once. Ranks by a true reward or a judge where all trainings were judged, else
by held-out accuracy. Each training is an ordinary one, under a label of its own in <out>/train, and so goes on where it
was interrupted. Writes <out>/compare/: trials.parquet (one row per training), compare.json and index.html.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl

from scoreonce.pipeline.evaluation.graded import graded
from scoreonce.pipeline.evaluation.standings import Standings, standings
from scoreonce.pipeline.pages.compare.data import Comparison, Trial, mean, of_candidate
from scoreonce.pipeline.pages.compare.page import render
from scoreonce.pipeline.pages.compare.verdict import decision, remarks
from scoreonce.pipeline.pages.ranking import HELD_OUT_ACCURACY, Measure, leading_all
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import ComparisonManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256, write_parquet
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.locking import exclusive, locked
from scoreonce.stages.common.method_file import load_allowed
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.results import CompareResult
from scoreonce.stages.compare import table
from scoreonce.stages.compare.earlier import replaced
from scoreonce.stages.compare.plan import Candidate, Plan, not_taken_over, plan, shares, shortened
from scoreonce.stages.compare.trials import gpus, is_finished, run_all
from scoreonce.stages.config import Run
from scoreonce.stages.data.samples import SAID, demo_entries, judgement_records
from scoreonce.stages.outputs import pages
from scoreonce.stages.outputs.at_address import at_address

logger = logging.getLogger(__name__)


def compare(
    run: Run,
    *,
    jobs: int | None = None,
    restart: bool = False,
    allow_method_file: bool = False,
    lock_timeout: float | None = None,
) -> CompareResult:
    """Train every candidate of [compare] in the run file, and rank them on the held-out pairs.

    `jobs` trainings run at the same time, each on a GPU of its own where there are GPUs; by default as many as there
    are GPUs, or one. `allow_method_file` lets the code of `train.method_file` run. What is done already, by this
    command or by `train` under the same label, is not done again. `restart` deletes trainings that are there with other
    settings, and trains them again. Another comparison in this run's folder is waited for, at most `lock_timeout`
    seconds. Raises `InputError` where there are such trainings and no `restart`, where the candidates cannot be made,
    and where none of them could be trained.
    """
    _require_no_launcher()
    if run.train.method_file:
        load_allowed(run.train.method_file, allowed=allow_method_file)
    paths, planned = RunPaths.of(run), plan(run)
    jobs = jobs or gpus(run.compute) or 1
    with exclusive(_lock(paths), "the comparison of this run", timeout=lock_timeout):
        _say(planned, run)
        scored = _prepared(run, lock_timeout)
        trials = _search(run, planned, jobs, paths, restart=restart, allow_method_file=allow_method_file)
        return _finished(run, planned, trials, scored, lock_timeout=lock_timeout)


def _lock(paths: RunPaths) -> Path:
    """That of a comparison from its beginning; its files have one of their own while they are written."""
    path = paths.lock(paths.comparison).with_suffix(".begun.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@at_address("evaluate/*", "train/*/metrics.*", *SAID, writes="compare")
def _finished(
    run: Run, planned: Plan, trials: Sequence[Trial], scored: float, *, lock_timeout: float | None
) -> CompareResult:
    """Rank, decide and write."""
    paths = RunPaths.of(run)
    found = _ranked(trials, planned, paths)
    found, measure, partly = _graded(found, trials, paths)
    drift = {row.name: mean(trials, row.name, "cross_entropy_increase") for row in found.rows}
    settings = {candidate.name: dict(candidate.settings) for candidate in planned.candidates}
    chosen = decision(found, drift, measure)
    page = Comparison(
        found,
        chosen,
        tuple(trials),
        settings,
        keys=tuple(dict.fromkeys(key for each in settings.values() for key in each if key != "train.method")),
        reference_seconds=scored,
        notes=planned.notes,
        remarks=tuple(remarks(found, settings, chosen)),
        measure=measure,
        partly=partly,
    )
    with locked(paths, paths.comparison, "the comparison of this run", timeout=lock_timeout):
        _write(run, paths, page)
    for line in table.standing_lines(page):
        logger.info(line)
    logger.info(f"page: {paths.comparison / 'index.html'}")
    made = CompareResult(paths, chosen.recommended, chosen.reason, found, measure.title)
    # The first seed of the candidate: they are alike, and the best of them would be so by chance.
    label, policy = next(iter(made.policies(chosen.recommended or found.rows[0].name).items()))
    logger.info(f"policy{'' if chosen.recommended else ' (of the best, which may be chance)'}: {policy}")
    logger.info(f"to sample, judge, push or merge it: --label {label}")
    return made


def _require_no_launcher() -> None:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError(
            "A comparison starts its trainings itself.",
            found=f"{os.environ['WORLD_SIZE']} processes of a launcher",
            where="torchrun or accelerate launch",
            fix="Start `scoreonce compare` alone: --jobs N trains N candidates at a time, each on a GPU of its own.",
        )


def _say(planned: Plan, run: Run) -> None:
    for note in planned.notes:
        logger.info(f"note: {note}: those settings do not vary for it")
    if said := not_taken_over(run):
        logger.info(f"note: {said}")
    count, seeds = len(planned.candidates), len(planned.seeds)
    searched = {"grid": "each trained", "random": "drawn at random, each trained", "halving": "in rounds, each trained"}
    logger.info(f"{count:,} candidates, {searched[run.compare.search]} with {seeds:,} seed{'s' * (seeds > 1)}")


def _prepared(run: Run, lock_timeout: float | None) -> float:
    """Pairs and scores, made where they are not there; returns the seconds that scoring took now."""
    from scoreonce.stages.prepare import stage as prepare
    from scoreonce.stages.score import stage as score

    prepare.prepare(run, lock_timeout=lock_timeout)
    started = time.perf_counter()
    scored = score.score(run, lock_timeout=lock_timeout)
    return time.perf_counter() - started if scored.scored else 0.0


def _search(
    run: Run, planned: Plan, jobs: int, paths: RunPaths, *, restart: bool, allow_method_file: bool
) -> list[Trial]:
    """All trainings: one round, or with successive halving several, each with the best of the one before."""
    asked, candidates = run.compare, list(planned.candidates)
    rounds = shares(len(candidates), asked.keep) if asked.search == "halving" else [1.0]
    every: list[Trial] = []
    for number, share in enumerate(rounds, 1):
        current = {shortened(each, run, share).name: each for each in candidates}
        work = [
            (name, seed, shortened(each, run, share).trial(run, seed))
            for name, each in current.items()
            for seed in planned.seeds
        ]
        if len(rounds) > 1:
            logger.info(f"round {number} of {len(rounds)}: {len(candidates):,} candidates, {share:.3g} of the training")
        again = replaced((trial for _, _, trial in work), restart=restart, allow_method_file=allow_method_file)
        labels = {RunPaths.of(trial).label: trial for _, _, trial in work}
        new = [label for label, trial in labels.items() if label in again or not is_finished(trial)]
        show = table.Progress(len(work), new)
        logs = paths.comparison / "logs"
        trials = run_all(
            work,
            jobs=jobs,
            logs=logs,
            done=show,
            again=again,
            allow_method_file=allow_method_file,
            keep_checkpoints=asked.keep_checkpoints,
        )
        every += trials
        if number < len(rounds):
            candidates = _best(trials, current, max(1, len(candidates) // asked.keep))
    return every


def _best(trials: Sequence[Trial], candidates: dict[str, Candidate], count: int) -> list[Candidate]:
    """Those with the largest mean margin: accuracy of a short training is the same for many."""
    _require_some(trials)
    trained = [name for name in candidates if of_candidate(trials, name)]
    ranked = sorted(trained, key=lambda name: -mean(trials, name, "margin"))
    return [candidates[name] for name in ranked[:count]]


def _ranked(trials: Sequence[Trial], planned: Plan, paths: RunPaths) -> Standings:
    """The candidates whose every seed was trained to the end, else those that were with some seeds."""
    names = [candidate.name for candidate in planned.candidates]
    _require_some([trial for trial in trials if trial.candidate in names])
    evaluations = {
        name: [read_frame(replace(paths, label=trial.label).evaluation_pairs) for trial in found]
        for name in names
        if (found := of_candidate(trials, name))
    }
    whole = {name: tables for name, tables in evaluations.items() if len(tables) == len(planned.seeds)}
    return standings(whole or evaluations)


def _graded(found: Standings, trials: Sequence[Trial], paths: RunPaths) -> tuple[Standings, Measure, str]:
    """Ranked by a true reward or a judge where one knows every training of every candidate, else as they are."""
    labels = {row.name: [trial.label for trial in of_candidate(trials, row.name)] for row in found.rows}
    every = [label for each in labels.values() for label in each]
    measure, partly = leading_all(demo_entries(paths, every), judgement_records(paths, every), every)
    if measure is None:
        return found, HELD_OUT_ACCURACY, partly
    grades = {name: [measure.grades[label] for label in each] for name, each in labels.items()}
    return graded(found, grades, share=measure.share), measure, partly


def _require_some(trials: Sequence[Trial]) -> None:
    failed = [trial for trial in trials if trial.failure]
    if len(failed) == len(trials):
        raise InputError(
            "No candidate could be trained.",
            found=f"{failed[0].label}: {failed[0].failure}",
            where="compare",
            fix="Train one of them alone, with `scoreonce train`, until it works.",
        )


def _write(run: Run, paths: RunPaths, page: Comparison) -> None:
    """The tables, the page, and the summary last."""
    rows = table.trial_rows(page.trials)
    write_parquet(paths.trials, rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
    pages.write_page(paths, paths.comparison_page, render(page))
    manifest = ComparisonManifest(
        settings=run.compare.model_dump(mode="json"),
        pairs=page.standings.pairs,
        ranked_by=page.measure.title,
        standings=[asdict(row) for row in page.standings.rows],
        recommended=page.decision.recommended,
        reason=page.decision.reason,
        candidates={name: dict(settings) for name, settings in page.settings.items()},
        files={paths.trials.name: sha256(paths.trials)},
    )
    manifests.write(paths.comparison_summary, manifest)
