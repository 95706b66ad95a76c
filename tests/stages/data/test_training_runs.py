"""What `train` and `evaluate` left behind is checked before it is read."""

import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import TrainingLogManifest
from scoreonce.stages.common import manifests
from scoreonce.stages.common.files import sha256
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.data.json_lines import write_lines
from scoreonce.stages.data.training_runs import checkpoints, metric_lines, step_tables

PARTS = ("steps/00000001-00000002.parquet", "steps/00000003-00000004.parquet")


@pytest.fixture
def paths(tmp_path):
    """A run with a log of four steps in two parts, which has not finished."""
    paths = RunPaths(tmp_path, tmp_path / "store", "dpo")
    (paths.training / "steps").mkdir(parents=True)
    for name in PARTS:
        (paths.training / name).write_bytes(name.encode())
    write_lines(paths.training / "metrics.jsonl", [{"step": step} for step in (1, 2, 3, 4)])
    write_log(paths, finished=False, names=PARTS)
    return paths


def write_log(paths, *, finished, names):
    files = {name: sha256(paths.training / name) for name in names}
    manifests.write(paths.training_log, TrainingLogManifest(step=4, finished=finished, files=files))


def finish(paths):
    for name in ("steps.parquet", "metrics.parquet"):
        (paths.training / name).write_bytes(name.encode())
    write_log(paths, finished=True, names=(*PARTS, "steps.parquet", "metrics.parquet", "metrics.jsonl"))


def test_parts_until_the_run_has_finished(paths):
    (paths.training / "steps" / "00000005-00000006.parquet").write_bytes(b"written, and not in the log yet")
    assert step_tables(paths) == [paths.training / name for name in PARTS]
    finish(paths)
    assert step_tables(paths) == [paths.training / "steps.parquet"]


@pytest.mark.parametrize("damaged", [*PARTS, "steps.parquet"])
def test_a_damaged_part_is_named_with_the_command(paths, damaged):
    if damaged == "steps.parquet":
        finish(paths)
    (paths.training / damaged).write_bytes(b"another")
    with pytest.raises(InputError, match="log of the training run is not what") as raised:
        step_tables(paths)
    assert raised.value.where == str(paths.training / damaged)
    assert "scoreonce train" in raised.value.fix


def test_metrics_that_lost_a_step_are_named(paths):
    assert metric_lines(paths) == [{"step": step} for step in (1, 2, 3, 4)]
    for steps in ((1, 2, 3), (1, 2, 4), (1, 1, 2, 3, 4)):
        write_lines(paths.training / "metrics.jsonl", [{"step": step} for step in steps])
        with pytest.raises(InputError, match="metrics of a training run cannot be read") as raised:
            metric_lines(paths)
        assert raised.value.where.endswith("metrics.jsonl")


def test_metrics_of_a_finished_run_are_compared_as_a_whole(paths):
    """A lost file of checksums does no harm then; a changed line does."""
    finish(paths)
    (paths.training / "metrics.crc32").unlink()
    assert len(metric_lines(paths)) == 4
    (paths.training / "metrics.jsonl").write_text('{"step": 9}\n')
    with pytest.raises(InputError, match="log of the training run is not what"):
        metric_lines(paths)


def test_a_run_of_version_0_1_has_no_digests(paths):
    paths.training_log.unlink()
    assert step_tables(paths) == [paths.training / name for name in PARTS]
    assert len(metric_lines(paths)) == 4


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    """Seven digits come after six; what has no number is no checkpoint."""
    for name in ("step-1000000", "step-999999", "step-000002", "step-000002.bak"):
        (tmp_path / name).mkdir()
    found = [path.name for path in checkpoints(tmp_path)]
    assert found == ["step-000002", "step-999999", "step-1000000"]
