"""Scoring killed at random moments, and by several processes: every completion once, and the same values.

This file is also the program that the tests start: torch is imported once, then each run is a fork that costs little.
"""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pytest

KILLS = 20


@pytest.fixture(autouse=True)
def one_thread():
    """As in the program that is killed: sums of float32 depend on the number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_killed_twenty_times_and_resumed(world):
    """A run that is killed leaves whole shards, or nothing; the last one finishes the work."""
    pairs = world.random_pairs(260)
    world.prepare(pairs[:220], pairs[220:])
    store = {"shard_completions": 2}
    whole = world.run(score={**store, "store": str(world.folder / "whole")})
    finish(whole)
    expected = tables(world)
    world.paths.reference_manifest.unlink()
    killed = run_file(world, world.run(score=store))
    said = drive("kill", killed)
    assert said.count("was killed") == KILLS
    assert tables(world).keys() == expected.keys()
    for split, table in tables(world).items():
        assert table["pair_id"].to_list() == expected[split]["pair_id"].to_list()
        assert table["pair_id"].is_unique().all()
        for column in ("ref_chosen_logps", "ref_rejected_logps", "ref_chosen_entropy"):
            assert (table[column] - expected[split][column]).abs().max() <= 1e-6
    job = job_of(world.run(score=store))
    rows = sum(job.store.sidecar(shard)["rows"] for shard in job.store.shards())
    assert rows == job.store.ids().len() == 520
    assert job.store.damage() == []
    assert job.store.leftovers() == []


@pytest.mark.slow
def test_two_processes_share_the_work(world):
    pairs = world.random_pairs(60)
    world.prepare(pairs[:50], pairs[50:])
    finish(world.run(score={"shard_completions": 8, "store": str(world.folder / "whole")}))
    expected = tables(world)
    world.paths.reference_manifest.unlink()
    drive("ranks", run_file(world, world.run(score={"shard_completions": 8})))
    for split, table in tables(world).items():
        assert table["pair_id"].to_list() == expected[split]["pair_id"].to_list()
        assert (table["ref_margin"] - expected[split]["ref_margin"]).abs().max() <= 1e-5
    store = job_of(world.run()).store
    sidecars = [store.sidecar(shard) for shard in store.shards()]
    assert len(sidecars) >= 15
    assert {sidecar["provenance"]["processes"] for sidecar in sidecars} == {2}
    assert sum(sidecar["rows"] for sidecar in sidecars) == store.ids().len() == 120


def finish(run) -> None:
    from scoreonce.stages.score import stage as score

    score.score(run)


def job_of(run):
    from scoreonce.stages.scoring.job import ScoringJob

    return ScoringJob.of(run)


def tables(world) -> dict[str, pl.DataFrame]:
    return {split: pl.read_parquet(world.paths.reference(split)) for split in ("train", "test")}


def run_file(world, run) -> Path:
    path = world.folder / "run.json"
    path.write_text(run.model_dump_json())
    return path


def drive(what: str, run: Path) -> str:
    """Start this file as a program."""
    done = subprocess.run(
        [sys.executable, __file__, what, str(run)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def fork(run_path: Path, before: Callable[[], None]) -> int:
    """Score in a child process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            from scoreonce.stages.config import Run
            from scoreonce.stages.score import stage as score

            before()
            score.score(Run.model_validate_json(run_path.read_text()))
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    return child


def die_after(renames: int, cpu_seconds: float) -> None:
    """Let the kernel end this process, without a word to Python, so long after so many files were finished.

    Processor time, so that a busy machine does not move the moments. What SIGPROF does by default is what SIGKILL does.
    """
    seen = 0

    def hook(event: str, _: object) -> None:
        nonlocal seen
        seen += event == "os.rename"
        if seen == renames:
            seen += 1
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)

    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    sys.addaudithook(hook)


def kill_again_and_again(run_path: Path) -> None:
    """20 runs that are killed at random moments, and one that may finish."""
    moments = random.Random(0)
    for _ in range(KILLS):
        moment = partial(die_after, moments.randrange(1, 13), moments.uniform(1e-5, 0.01))
        status = os.waitpid(fork(run_path, moment), 0)[1]
        assert os.WIFSIGNALED(status), "the run ended before it could be killed"
        shards = len(list(run_path.parent.glob("out/store/*/shards/*.json")))
        print("was killed with shards:", shards, flush=True)  # a fork would print it again
    assert os.waitpid(fork(run_path, lambda: None), 0)[1] == 0


def two_ranks(run_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2"}
    own = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    ranks = [fork(run_path, partial(os.environ.update, environment)) for environment in own]
    assert [os.waitpid(rank, 0)[1] for rank in ranks] == [0, 0]


if __name__ == "__main__":
    import accelerate  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    from scoreonce.stages.data import token_file as tokens  # noqa: F401
    from scoreonce.stages.score import stage as score  # noqa: F401
    from scoreonce.stages.scoring import model_scorer as inference  # noqa: F401

    {"kill": kill_again_and_again, "ranks": two_ranks}[sys.argv[1]](Path(sys.argv[2]))
