"""`scoreonce watch` from the command line, and in a terminal until the runs end."""

import sys
from types import SimpleNamespace

import pytest
import tomli_w
from rich.console import Console

from scoreonce.stages import cli
from scoreonce.stages.watch import watching


@pytest.fixture
def run_file(run, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(run.model_dump(exclude_none=True, exclude_unset=True)))
    return str(path)


def test_one_frame_without_a_terminal(run_file, run_of, capsys):
    trained = run_of("dpo").begins().steps(1, 2)
    with trained.log.open("a") as log:
        log.write('{"step": 3, "lo')  # which is being written
    assert cli.run_command(["watch", run_file]) == 0
    shown = capsys.readouterr().out
    assert "2/10" in shown
    assert "reward margin" in shown
    assert "\x1b" not in shown
    assert cli.run_command(["watch", run_file, "--once"]) == 0
    assert capsys.readouterr().out == shown


def test_labels_are_given_with_commas_or_again(run_file, run_of, capsys):
    for label in ("dpo", "ipo", "sft"):
        run_of(label).begins().steps(1)
    assert cli.run_command(["watch", run_file, "--label", "dpo,ipo", "--label", "sft"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown[1:4]] == [["a", "dpo"], ["b", "ipo"], ["c", "sft"]]


def test_a_run_that_is_not_there(run_file, capsys):
    assert cli.run_command(["watch", run_file, "--label", "ipo"]) == 2
    said = capsys.readouterr().err
    for part in ("There is no such training run.", "found: ipo", "where: ", "do:    Run `scoreonce train` first"):
        assert part in said


class Terminal:
    """Standard output that says it is a terminal."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self): ...

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """To be called in the test itself: pytest sets the output anew after the fixtures."""

    def begin():
        shown = Terminal()
        console = Console(file=shown, force_terminal=True, width=100, height=40, color_system="standard")
        monkeypatch.setattr(sys, "stdout", shown)
        monkeypatch.setattr(watching, "Console", lambda: console)
        return shown

    return begin


def test_frames_until_the_run_ends(run, run_of, terminal):
    trained = run_of("dpo").begins().steps(1)
    lock = trained.working()
    lock.__enter__()
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 1:
            trained.steps(*range(2, 11))
        else:
            trained.ends()
            lock.__exit__(None, None, None)

    shown = terminal()
    watching.watch(run, sleep=sleep)
    assert naps == [watching.INTERVAL] * 2
    assert shown.text.index("1/10") < shown.text.index("10/10") < shown.text.index("finished")


def test_ctrl_c_ends_the_watching_alone(run, run_of, terminal):
    trained = run_of("dpo").begins().steps(1)

    def sleep(seconds):
        raise KeyboardInterrupt

    shown = terminal()
    with trained.working():
        watching.watch(run, sleep=sleep)
    assert "training" in shown.text


def test_signs_that_the_output_has_not_are_replaced(run, run_of, monkeypatch):
    run_of("dpo").begins().steps(1, 2)
    written = []
    plain = SimpleNamespace(encoding="ascii", isatty=lambda: False, write=written.append, flush=lambda: None)
    monkeypatch.setattr(sys, "stdout", plain)
    watching.watch(run)
    assert "".join(written).isascii()
    assert "2/10" in "".join(written)


def test_nothing_is_written(run, run_of, capsys):
    trained = run_of("dpo").begins().steps(1)
    before = {path: path.stat().st_mtime_ns for path in trained.paths.out.rglob("*")}
    watching.watch(run, once=True)
    assert {path: path.stat().st_mtime_ns for path in trained.paths.out.rglob("*")} == before
    assert before
