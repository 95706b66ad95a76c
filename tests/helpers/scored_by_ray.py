"""Scoring by a Ray cluster of this machine, in which a process gets a signal in the middle.

    scored_by_ray.py RUN.toml VICTIM SIGNAL CPUS

This is the program that the tests of a cluster start: a small object store, no dashboard. VICTIM: the driver, a worker,
process "0" or "1" of a group, or its leader, at the third shard that a worker or process 1 (0) writes. The file
`processes` gets a line "ROLE PID" for each shard and each part that a leader begins.
"""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import tomli_w
from local_ray import OPTIONS

from scoreonce.stages.scoring.job import ScoringJob


def run_of(world, **settings):
    return world.run(score={"shard_completions": 8, **settings})


def tables(world):
    return {split: pl.read_parquet(world.paths.reference(split)) for split in ("train", "test")}


def require_the_same(world, expected):
    """Each completion is stored once, in sound files, and the pair tables are those of one process."""
    for split, table in tables(world).items():
        assert table["pair_id"].to_list() == expected[split]["pair_id"].to_list()
        for column in ("ref_chosen_logps", "ref_rejected_logps", "ref_chosen_entropy"):
            assert (table[column] - expected[split][column]).abs().max() <= 1e-5
    store = ScoringJob.of(run_of(world)).store
    assert sum(store.sidecar(shard)["rows"] for shard in store.shards()) == store.ids().len() == 240
    assert store.damage() == []
    assert store.leftovers() == []


def run_file(world, **settings) -> Path:
    """With paths relative to the world's folder; `settings` of [score]."""
    tree = run_of(world, **settings).model_dump(mode="json", exclude_unset=True)
    tree["out"], tree["reference"]["model"] = "out", "model"
    path = world.folder / "run.toml"
    path.write_text(tomli_w.dumps(tree))
    return path


def drive(world, victim: str, number: int, *, cpus: int = 2, **settings) -> subprocess.CompletedProcess[str]:
    """Score with Ray in a program of its own, in which the victim gets a signal."""
    run = str(run_file(world, **settings))
    return subprocess.run(
        [sys.executable, __file__, run, victim, str(int(number)), str(cpus)],
        cwd=world.folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def processes(world) -> dict[str, set[int]]:
    """The ids of the processes of each role."""
    found: dict[str, set[int]] = {}
    for line in (world.folder / "processes").read_text().splitlines():
        role, number = line.split()
        found.setdefault(role, set()).add(int(number))
    return found


def main(run: str, victim: str, number: int, cpus: int) -> int:
    import ray

    from scoreonce.stages import cli

    driver, here = os.getpid(), str(Path.cwd())

    def setup() -> None:
        """In each process that Ray starts."""
        import os
        import sys

        from scoreonce.stages.score.ray_group import GroupLeader

        seen, honest = 0, GroupLeader.__call__

        def note(name: str, line: str) -> None:
            file = os.open(f"{here}/{name}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.write(file, f"{line}\n".encode())
            os.close(file)

        def led(self, row):
            note("processes", f"leader {os.getpid()}")
            note("leader", str(os.getpid()))
            return honest(self, row)

        def hook(event: str, given: tuple) -> None:
            nonlocal seen
            if event != "os.rename" or "/shards/" not in str(given[1]) or not str(given[1]).endswith(".json"):
                return
            rank = os.environ.get("RANK", "worker")
            note("processes", f"{rank} {os.getpid()}")
            seen += 1
            # pathlib would be one more thing to send
            if seen == 3 and rank == {"driver": "worker", "leader": "1"}.get(victim, victim):
                try:
                    os.close(os.open(f"{here}/killed", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    return
                target = driver if victim == "driver" else os.getpid()
                if victim == "leader":
                    with open(f"{here}/leader") as file:  # noqa: PTH123
                        target = int(file.readlines()[-1])
                os.kill(target, number)

        GroupLeader.__call__ = led
        sys.addaudithook(hook)

    ray.init(address="local", num_cpus=cpus, **OPTIONS, runtime_env={"worker_process_setup_hook": setup})
    return cli.run_command(["score", run, "--engine", "ray"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
