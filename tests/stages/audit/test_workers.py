"""Who reads the pieces of an audit: threads or a Ray cluster, the results in order and the same."""

from pathlib import Path

import pytest
from local_ray import cluster, needs_ray

from scoreonce.schemas.errors import InputError
from scoreonce.stages.audit import workers
from scoreonce.stages.audit.stage import audit
from scoreonce.stages.cluster import connection
from scoreonce.stages.cluster.node import Surroundings
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run


def world(folder, planted, engine="local"):
    """A run with every kind of flaw; the same pairs in any folder."""
    planted.write_tokenizer(folder / "tokenizer")
    made = planted.write(
        RunPaths(folder / "out", folder / "store", "x"), 60, each=2, tokenizer=str(folder / "tokenizer")
    )
    run = Run.model_validate(
        {
            "out": str(folder / "out"),
            "data": {"source": "none", "tokenizer": str(folder / "tokenizer")},
            "reference": {"model": "none"},
            "audit": {"contamination": [str(made.evaluation)], "engine": engine},
        }
    )
    return made.paths, run


def test_a_function_sees_what_all_share(tmp_path):
    with workers.workers_of("local", RunPaths(tmp_path, tmp_path, "x"), 10) as each:
        assert list(each(lambda shared, item: shared + item, range(5))) == [10, 11, 12, 13, 14]


def test_a_process_of_ray_serves_one_command_after_the_other(monkeypatch):
    monkeypatch.setattr(workers, "_shared", ["earlier"])
    workers._begin(Surroundings.here([]), "own")
    assert workers._in_task(lambda shared, item: (shared, item), 1) == ("own", 1)


def test_without_the_package_the_extra_is_named(tmp_path, planted, monkeypatch):
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    _, run = world(tmp_path, planted, "ray")
    with pytest.raises(InputError, match=r"(?s)Auditing with Ray.*ray is not installed.*audit.engine"):
        audit(run)


def files(paths):
    """What an audit wrote for programs, by name."""
    return {path.name: path.read_bytes() for path in paths.audit.iterdir() if path.suffix == ".parquet"}


@pytest.mark.long
@needs_ray
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # Ray's own
def test_the_same_findings_by_the_tasks_of_a_cluster(tmp_path, planted):
    """One of its processes dies in the middle, and another takes its piece."""
    killed = str(tmp_path / "killed")

    def setup() -> None:
        """In each process that Ray starts: the test split ends the first that reads it."""
        import os

        from scoreonce.stages.audit import measures

        honest = measures._read

        def read(inputs, piece):
            if piece.split == "test" and not os.access(killed, os.F_OK):
                os.close(os.open(killed, os.O_CREAT))
                os._exit(1)
            return honest(inputs, piece)

        measures._read = read

    paths, run = world(tmp_path, planted)
    here = audit(run)
    expected, findings = files(paths), here.findings
    paths.measures_manifest.unlink()  # measured anew
    with cluster(2, setup):
        there = audit(run.replace({"audit.engine": "ray"}))
    assert Path(killed).exists()
    assert files(paths) == expected
    assert there.findings == findings
    # The engine does not decide the findings.
    before = paths.measures_manifest.stat().st_mtime_ns
    audit(run)
    assert paths.measures_manifest.stat().st_mtime_ns == before
