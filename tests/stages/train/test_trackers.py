"""Each tracker of the extra `trackers` runs for real, off line, and its own files have the figures of metrics.jsonl."""

import importlib
import json
import os
import struct
import subprocess
import sys
from importlib.util import find_spec

import pytest
import tomli_w

from scoreonce.schemas.metrics import ACCURACIES, LOSS, MARGINS, REWARDS_CHOSEN
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.score import stage as score

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]  # what trackers warn of is theirs

READ = (LOSS, MARGINS, ACCURACIES, REWARDS_CHOSEN)
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "TRACKIO_DIR": "trackio",
    "MLFLOW_TRACKING_URI": "file:mlruns",
    "MLFLOW_ALLOW_FILE_STORE": "true",
}


@pytest.fixture
def trained(world, tmp_path, monkeypatch):
    """Trains by the command line in `tmp_path` with a tracker; the paths, and the lines of metrics.jsonl."""
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def train(tracker):
        if find_spec(tracker) is None:
            pytest.skip("needs pip install 'scoreonce[trackers]'")
        world.prepare(world.random_pairs(24))
        settings = {"label": "mine", "learning_rate": 3e-3, "batch_pairs": 8, "max_steps": 3, "log_with": [tracker]}
        run = world.run(train=settings)
        score.score(run)
        (tmp_path / "run.toml").write_text(tomli_w.dumps(run.model_dump(exclude_none=True, exclude_unset=True)))
        command = [sys.executable, "-m", "scoreonce.stages.cli", "train", "run.toml"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        paths = RunPaths.of(run)
        lines = [json.loads(line) for line in (paths.training / "metrics.jsonl").read_text().splitlines()]
        assert len(lines) == 3
        return paths, lines

    return train


def expect_figures(found, lines):
    """`found`: metric -> values of the steps 1, 2, 3."""
    for name in READ:
        assert found[name] == pytest.approx([line[name] for line in lines], rel=1e-6), name


def test_tensorboard(trained):
    paths, lines = trained("tensorboard")
    events = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    read = events.EventAccumulator(str(paths.training / "trackers" / "scoreonce"))
    read.Reload()
    assert [scalar.step for scalar in read.Scalars(LOSS)] == [1, 2, 3]
    expect_figures({name: [scalar.value for scalar in read.Scalars(name)] for name in READ}, lines)


def wandb_records(path):
    """The records of a .wandb file: after seven bytes a log of LevelDB, blocks of 32 KiB with pieces of records."""
    proto = importlib.import_module("wandb.proto.wandb_internal_pb2")
    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32_768 - place % 32_768 < 7:  # too little for the head of a piece
            place += 32_768 - place % 32_768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = proto.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def test_wandb(trained, tmp_path):
    _, lines = trained("wandb")
    [path] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    records = list(wandb_records(path))
    assert {record.run.display_name for record in records if record.HasField("run")} == {"mine"}
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    steps = [row for row in history if LOSS in row]
    assert [row["_step"] for row in steps] == [1, 2, 3]
    expect_figures({name: [row[name] for row in steps] for name in READ}, lines)


def test_mlflow(trained, tmp_path):
    _, lines = trained("mlflow")
    client = importlib.import_module("mlflow").MlflowClient("file:mlruns")
    experiment = client.get_experiment_by_name("scoreonce")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "mine"
    assert run.data.params["method"] == "dpo"
    values = {name: client.get_metric_history(run.info.run_id, name) for name in READ}
    assert [value.step for value in values[LOSS]] == [1, 2, 3]
    expect_figures({name: [value.value for value in each] for name, each in values.items()}, lines)


def test_trackio(trained):
    _, lines = trained("trackio")
    storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    assert storage.get_runs("scoreonce") == ["mine"]
    logs = storage.get_logs("scoreonce", "mine")
    assert [row["step"] for row in logs] == [1, 2, 3]
    expect_figures({name: [row[name] for row in logs] for name in READ}, lines)


@pytest.fixture(autouse=True)
def keeps_the_environment():
    """Trackers set variables of their own when they are imported."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
