"""One training with its evaluation, in this process, or several at once in processes of their own."""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from scoreonce.pipeline.pages.compare.data import Trial
from scoreonce.schemas import metrics
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common import digests, progress
from scoreonce.stages.common.files import write_toml
from scoreonce.stages.common.locking import locked
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.removal import remove
from scoreonce.stages.config import Compute, Run
from scoreonce.stages.data.training_runs import held_out_rows, metric_lines, read_evaluation
from scoreonce.stages.models import folders
from scoreonce.stages.outputs.at_address import at_address

LAST_LINES = 4  # of a process's messages, where it failed


Done = Callable[[Trial], None]
Work = tuple[str, int, Run]  # candidate, seed, and the run that trains it


def run_all(
    work: Sequence[Work],
    *,
    jobs: int,
    logs: Path,
    done: Done,
    again: Collection[str] = (),
    allow_method_file: bool = False,
    keep_checkpoints: bool = False,
) -> list[Trial]:
    """Train and evaluate each (candidate, seed, run), what is finished already not again; in the order of `work`.

    With one job in this process, with more in that many at once, each with a GPU of its own where there are GPUs; what
    they say is in files of the folder `logs`. What is there under the labels `again` is deleted before. A training that
    cannot be finished, because its weights are no longer finite for example, becomes a trial with a failure.
    Without `keep_checkpoints`, the checkpoints of a training are removed once it is evaluated.
    """
    if jobs > 1:
        finished = _in_processes(work, jobs, logs, _flags(allow_method_file), again)
    else:
        finished = map(partial(_in_this_process, again=again, allow_method_file=allow_method_file), work)
    runs = {(candidate, seed): run for candidate, seed, run in work}
    found: dict[tuple[str, int], Trial] = {}
    for trial in finished:
        key = trial.candidate, trial.seed
        if not trial.failure and not keep_checkpoints and RunPaths.of(runs[key]).checkpoints.is_dir():
            with quiet():
                _remove_checkpoints(runs[key])
        done(trial)
        found[key] = trial
    return [found[candidate, seed] for candidate, seed, _ in work]


def _in_this_process(work: Work, *, again: Collection[str], allow_method_file: bool) -> Trial:
    from scoreonce.stages.evaluate import stage as evaluate
    from scoreonce.stages.train import stage as train

    candidate, seed, run = work
    paths = RunPaths.of(run)
    try:
        with quiet():
            train.train(run, restart=paths.label in again, allow_method_file=allow_method_file)
            evaluate.evaluate(run)
    except InputError as error:
        return Trial(candidate, seed, paths.label, {}, 0.0, f"{error.what} {error.found}. {error.fix}")
    return _read(candidate, seed, paths)


@at_address(writes="train/{label}")
def _remove_checkpoints(run: Run) -> None:
    """Of a training that has ended, which needs them no more: two of them take 24 bytes a weight with AdamW."""
    paths = RunPaths.of(run)
    with locked(paths, paths.training, f"the training run {paths.label}"):
        remove(paths.checkpoints, inside=paths.out)


def _flags(allow_method_file: bool) -> dict[str, list[str]]:
    """What a process of each stage is allowed, as this one is."""
    both = [
        *(["--trust-remote-code"] if folders.trust_remote_code else []),
        *(["--rehash"] if digests.rehash else []),
    ]
    return {"train": both + (["--allow-method-file"] if allow_method_file else []), "evaluate": both}


def _in_processes(
    work: Sequence[Work], jobs: int, logs: Path, flags: Mapping[str, list[str]], again: Collection[str]
) -> Iterator[Trial]:
    places: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    for environment in _places(jobs, gpus(work[0][2].compute)):
        places.put(environment)

    def work_off(item: Work) -> Trial:
        environment = places.get()
        try:
            restart = ["--restart"] if RunPaths.of(item[2]).label in again else []
            return _in_a_process(item, environment, logs, {**flags, "train": [*flags["train"], *restart]})
        finally:
            places.put(environment)

    logs.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(work_off, item) for item in work]):
                yield future.result()
        except BaseException:  # Ctrl-C reaches the processes too: each writes a checkpoint and ends
            pool.shutdown(cancel_futures=True)
            raise


def _in_a_process(work: Work, environment: Mapping[str, str], logs: Path, flags: Mapping[str, list[str]]) -> Trial:
    candidate, seed, run = work
    paths = RunPaths.of(run)
    run_file, log = logs / f"{paths.label}.toml", logs / f"{paths.label}.log"
    write_toml(run_file, run.model_dump(exclude_none=True, exclude_unset=True))
    with log.open("w", encoding="utf-8") as said:
        for stage in ("train", "evaluate"):
            command = [sys.executable, "-m", "scoreonce.stages.cli", stage, str(run_file), *flags[stage]]
            done = subprocess.run(command, stdout=said, stderr=said, env={**os.environ, **environment})
            if done.returncode:
                said.flush()
                last = log.read_text(encoding="utf-8").strip().splitlines()[-LAST_LINES:]
                return Trial(candidate, seed, paths.label, {}, 0.0, f"{' '.join(last)} ({log})")
    return _read(candidate, seed, paths)


def gpus(compute: Compute) -> int:
    """The GPUs that trainings can use."""
    return 0 if compute.device == "cpu" else torch.cuda.device_count()


def _places(jobs: int, count: int) -> list[dict[str, str]]:
    """Environments of processes that run at the same time: one of `count` GPUs each, or a share of the cores."""
    if count:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = given.split(",") if given else [str(number) for number in range(count)]
        return [{"CUDA_VISIBLE_DEVICES": names[number % len(names)]} for number in range(jobs)]
    return [{"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // jobs))} for _ in range(jobs)]


def is_finished(run: Run) -> bool:
    """Whether a training of a comparison has ended, with its evaluation: nothing of it is done again."""
    paths = RunPaths.of(run)
    return paths.policy.is_dir() and read_evaluation(paths) is not None


def _read(candidate: str, seed: int, paths: RunPaths) -> Trial:
    evaluation = read_evaluation(paths)
    assert evaluation is not None
    lines = metric_lines(paths)
    return Trial(
        candidate,
        seed,
        paths.label,
        dict(evaluation.figures),
        sum(line.get(metrics.SECONDS, 0.0) for line in lines),
        along=held_out_rows(paths),
        memory=max((line[metrics.PEAK_MEMORY] for line in lines if line.get(metrics.PEAK_MEMORY)), default=None),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Only warnings of the stages, and no bars: a comparison has its own lines."""
    logger = logging.getLogger("scoreonce")
    level, bars = logger.level, progress.shown()
    logger.setLevel(logging.WARNING)
    progress.show(False)
    try:
        yield
    finally:
        logger.setLevel(level)
        progress.show(bars)
