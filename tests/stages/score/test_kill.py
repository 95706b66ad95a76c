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
import tomli_w
import yaml

KILLS = 20
CONFIGS = Path(__file__).resolve().parents[3] / "configs"


@pytest.fixture(autouse=True)
def one_thread():
    """As in the program that is killed: sums of float32 depend on the number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.long
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
@pytest.mark.parametrize("parts", [[], ["1/2", "2/2"]], ids=["whole", "in parts"])
def test_two_processes_share_the_work(world, parts):
    """Of everything, or of one part after the other."""
    pairs = world.random_pairs(60)
    world.prepare(pairs[:50], pairs[50:])
    finish(world.run(score={"shard_completions": 8, "store": str(world.folder / "whole")}))
    expected = tables(world)
    world.paths.reference_manifest.unlink()
    drive("ranks", run_file(world, world.run(score={"shard_completions": 8})), *parts)
    for split, table in tables(world).items():
        assert table["pair_id"].to_list() == expected[split]["pair_id"].to_list()
        assert (table["ref_margin"] - expected[split]["ref_margin"]).abs().max() <= 1e-5
    store = job_of(world.run()).store
    sidecars = [store.sidecar(shard) for shard in store.shards()]
    assert len(sidecars) >= 13
    assert {sidecar["provenance"].get("part") for sidecar in sidecars} == set(parts or [None])
    assert {sidecar["provenance"]["processes"] for sidecar in sidecars} == {2}
    assert sum(sidecar["rows"] for sidecar in sidecars) == store.ids().len() == 120


@pytest.mark.parametrize(
    "job", [pytest.param("slurm", marks=pytest.mark.long), pytest.param("kubernetes", marks=pytest.mark.slow)]
)
def test_eight_parts_of_which_three_are_killed(world, job):
    """Started by the job files. The five others end without the dead, which are then started by the same command."""
    pairs = world.random_pairs(120)
    world.prepare(pairs[:100], pairs[100:])
    store = {"shard_completions": 2}
    finish(world.run(score={**store, "store": str(world.folder / "whole")}))
    expected = tables(world)
    world.paths.reference_manifest.unlink()
    run = world.folder / "run.toml"
    run.write_text(tomli_w.dumps(world.run(score=store).model_dump(mode="json", exclude_unset=True)))
    said = drive(job, run).splitlines()
    assert [line.split()[0] for line in said] == ["killed"] * 3 + ["ended"] * 5 + ["restarted"] * 3
    for line in said[3:-1]:
        assert "completions of other parts are still missing" in line
        assert "waiting: part" not in line
    assert "pairs; the reference prefers" in said[-1]
    for split, table in tables(world).items():
        assert table["pair_id"].to_list() == expected[split]["pair_id"].to_list()
        for column in ("ref_chosen_logps", "ref_rejected_logps", "ref_chosen_entropy"):
            assert (table[column] - expected[split][column]).abs().max() <= 1e-5
    made = job_of(world.run(score=store)).store
    sidecars = [made.sidecar(shard) for shard in made.shards()]
    assert {sidecar["provenance"]["part"] for sidecar in sidecars} == {f"{number}/8" for number in range(1, 9)}
    assert sum(sidecar["rows"] for sidecar in sidecars) == made.ids().len() == 240
    assert made.damage() == []
    assert made.leftovers() == []


def job_command(job: str, index: int) -> tuple[list[str], dict[str, str]]:
    """What a scheduler starts as the process of number `index`, counted from 0, and what it sets; without the run."""
    if job == "slurm":
        ids = {"SLURM_ARRAY_TASK_ID": str(index + 1), "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_COUNT": "1"}
        return ["bash", str(CONFIGS / "slurm_score.sh")], ids
    spec = yaml.safe_load((CONFIGS / "kubernetes_score.yaml").read_text())["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == 8
    return spec["template"]["spec"]["containers"][0]["command"], {"JOB_COMPLETION_INDEX": str(index)}


def start_job(job: str, index: int, run: Path, programs: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Start a job file's process with `programs` first on the path."""
    command, environment = job_command(job, index)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*command, str(run)],
        env={**os.environ, **environment, "RUN": str(run), "PATH": path, **more},
        capture_output=True,
        text=True,
        check=False,
    )


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("job", ["slurm", "kubernetes"])
def test_the_job_files_start_each_part_once(tmp_path, job):
    program(tmp_path / "bin", "scoreonce", 'echo "$@"')
    started = [start_job(job, index, tmp_path / "a b.toml", tmp_path / "bin") for index in range(8)]
    assert [(each.returncode, each.stdout) for each in started] == [
        (0, f"score {tmp_path}/a b.toml --part {number}/8\n") for number in range(1, 9)
    ]


@pytest.mark.parametrize(("code", "restarts", "requeued"), [(0, 0, 0), (2, 0, 0), (137, 0, 1), (1, 4, 1), (1, 5, 0)])
def test_slurm_starts_what_died_again(tmp_path, code, restarts, requeued):
    """Five times at most, and not where the input is unusable."""
    program(tmp_path / "bin", "scoreonce", f"exit {code}")
    program(tmp_path / "bin", "scontrol", 'echo "scontrol $@"')
    count = {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
    done = start_job("slurm", 2, tmp_path / "run.toml", tmp_path / "bin", **count)
    assert done.returncode == code
    assert done.stdout == "scontrol requeue 77_3\n" * requeued


def test_the_job_files_say_as_many_parts_as_they_start():
    """--array=1-8 starts eight; Kubernetes' `completions` is compared above. Code 2 ends all, in both."""
    assert "#SBATCH --array=1-8\n" in (CONFIGS / "slurm_score.sh").read_text()
    assert "\nPARTS=8 " in (CONFIGS / "slurm_score.sh").read_text()
    rules = yaml.safe_load((CONFIGS / "kubernetes_score.yaml").read_text())["spec"]["podFailurePolicy"]["rules"]
    assert next(rule for rule in rules if rule["action"] == "FailJob")["onExitCodes"]["values"] == [2]


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


def drive(what: str, run: Path, *more: str) -> str:
    """Start this file as a program."""
    done = subprocess.run(
        [sys.executable, __file__, what, str(run), *more],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def fork(run_path: Path, before: Callable[[], None], part: str | None = None) -> int:
    """Score in a child process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            from scoreonce.stages.config import Run
            from scoreonce.stages.score import stage as score

            before()
            score.score(Run.model_validate_json(run_path.read_text()), part=part)
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    return child


def die_after(renames: int, cpu_seconds: float) -> None:
    """Let the kernel end this process, without a word to Python, so long after so many files were finished.

    Processor time, so that a busy machine does not move the moments. What SIGPROF does by default is what SIGKILL does.
    The kernel counts that time in ticks, in which a fast machine may end its work: three files later it dies anyway.
    """
    seen = 0

    def hook(event: str, _: object) -> None:
        nonlocal seen
        if event != "os.rename":
            return
        seen += 1
        if seen == renames:
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        elif seen == renames + 3:
            os.kill(os.getpid(), signal.SIGPROF)

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


def two_ranks(run_path: Path, *parts: str) -> None:
    for part in parts or (None,):
        _two_ranks(run_path, part)


def _two_ranks(run_path: Path, part: str | None) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2"}
    own = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    ranks = [fork(run_path, partial(os.environ.update, environment), part) for environment in own]
    assert [os.waitpid(rank, 0)[1] for rank in ranks] == [0, 0]


def eight_parts(job: str, run_path: Path) -> None:
    """Eight processes at once, of which three die; then these again, with SLURM the last by the command itself."""
    chances = random.Random(job)
    dying = chances.sample(range(8), 3)
    # The first of them dies right after its second lock, which all parts share, the others before their fifth shard.
    moments = [(2, 1e-5), *((chances.randrange(4, 8), chances.uniform(1e-5, 0.01)) for _ in range(2))]
    before: dict[int, Callable[[], None]] = {
        index: partial(die_after, *moment) for index, moment in zip(dying, moments, strict=True)
    }
    started = [fork_part(job, index, run_path, before.get(index, lambda: None)) for index in range(8)]
    ended = [os.waitpid(child, 0)[1] for child, _ in started]
    for index in dying:
        assert os.WIFSIGNALED(ended[index]), "a part ended before it could be killed"
        print("killed", index)
    for index in set(range(8)) - set(dying):
        said = started[index][1].read_text()
        assert ended[index] == 0, said
        print("ended", index, " ".join(said.split()))
    by_command = dying[2:] if job == "slurm" else []
    for index in dying[: 3 - len(by_command)]:
        child, output = fork_part(job, index, run_path, lambda: None)
        sys.stdout.flush()
        assert os.waitpid(child, 0)[1] == 0, output.read_text()
        print("restarted", index, " ".join(output.read_text().split()))
    for index in by_command:
        done = start_job(job, index, run_path, Path(sys.executable).parent)
        assert done.returncode == 0, done.stderr
        print("restarted", index, " ".join((done.stdout + done.stderr).split()))


def fork_part(job: str, index: int, run_path: Path, before: Callable[[], None]) -> tuple[int, Path]:
    """Run what a job file calls, found by starting it with another `scoreonce`, in a child process."""
    programs, output = run_path.parent / "bin", run_path.parent / f"output-{index}"
    program(programs, "scoreonce", "printf '%s\\n' \"$@\"")
    arguments = start_job(job, index, run_path, programs).stdout.splitlines()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(written, 1)
            os.dup2(written, 2)
            from scoreonce.stages import cli

            before()
            code = cli.run_command(arguments)
        finally:
            sys.stdout.flush()
            os._exit(code)
    return child, output


if __name__ == "__main__":
    import accelerate  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    from scoreonce.stages.data import token_file as tokens  # noqa: F401
    from scoreonce.stages.score import stage as score  # noqa: F401
    from scoreonce.stages.scoring import model_scorer as inference  # noqa: F401

    programs = {"kill": kill_again_and_again, "ranks": two_ranks}
    programs |= {job: partial(eight_parts, job) for job in ("slurm", "kubernetes")}
    programs[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
