"""How results are written down."""

import json

import pytest
import real_data


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(real_data, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_results_say_what_they_were_measured_with(results, capsys):
    real_data.write("speed", {"pairs/s": 3.5}, "| pairs/s |\n")
    written = json.loads((results / "speed.json").read_text())
    assert written["pairs/s"] == 3.5
    assert set(written["measured"]) == {"date", "machine", "cores", "threads", "load over 15 min", "versions"}
    page = (results / "speed.md").read_text()
    assert page.startswith("| pairs/s |\n\nMeasured 20")
    assert written["measured"]["versions"]["torch"] in page
    assert capsys.readouterr().out.strip() == page.strip()


def test_a_smoke_run_leaves_nothing(results):
    real_data.write("speed", {}, "| pairs/s |\n", keep=False)
    assert not results.exists()


def test_data_are_absent_where_nothing_says_where(tmp_path, monkeypatch):
    monkeypatch.setenv("SCOREONCE_SHARED", str(tmp_path / "nowhere"))
    assert real_data.found() is None
    with pytest.raises(SystemExit):
        real_data.folder()
