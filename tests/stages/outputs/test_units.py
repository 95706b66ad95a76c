"""Which unit a file belongs to, and which names of an address are taken."""

import pytest

from scoreonce.stages.outputs import units


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("pairs/train.parquet", "pairs"),
        ("train/dpo/checkpoints/step-000002/manifest.json", "train/dpo"),
        ("evaluate/ipo+batch_beta/summary.json", "evaluate/ipo+batch_beta"),
        ("report.html", "report.html"),
    ],
)
def test_the_unit_of_a_file(name, unit):
    assert units.unit_of(name) == unit
    assert units.is_unit(unit)
    assert units.is_safe(name, unit)


@pytest.mark.parametrize(
    "unit",
    ["store", "train", "pairs/x", "train/.x", "train/../x", "train/a/b", "evaluate/", "", "../pairs", "run.toml"],
)
def test_what_is_no_unit(unit):
    assert not units.is_unit(unit)


@pytest.mark.parametrize(
    "name",
    [
        "pairs/../../x",
        "/pairs/x",
        "pairs//x",
        "pairs/.hidden",
        "pairs/.locks/x",
        "pairs2/x",
        "train/dpo/x",
        "pairs/a\\b",
        "pairs/a\0",
        "",
    ],
)
def test_names_that_are_not_taken(name):
    assert not units.is_safe(name, "pairs")


def test_what_vouches_for_others_is_written_after_them():
    names = [
        "train/x/checkpoints/s/manifest.json",
        "train/x/metrics.jsonl",
        "train/x/log.json",
        "train/x/steps/1.parquet",
    ]
    assert units.in_order(names) == [[names[3]], [names[2], names[1]], [names[0]]]
    assert units.in_order(["pairs/manifest.json", "pairs/train.parquet"]) == [
        ["pairs/train.parquet"],
        ["pairs/manifest.json"],
    ]


def test_links_hidden_and_unfinished_files_are_no_part_of_a_unit(tmp_path):
    folder = tmp_path / "out" / "train" / "x"
    (folder / ".model.tmp").mkdir(parents=True)
    for name in ("lineage.json", ".lineage.json.1.tmp", ".model.tmp/weights"):
        (folder / name).write_text("x")
    (folder / "link").symlink_to(folder / "lineage.json")
    (tmp_path / "out" / "report.html").write_text("x")
    assert list(units.files_in(tmp_path / "out", "train/x")) == ["train/x/lineage.json"]
    assert list(units.files_in(tmp_path / "out", "report.html")) == ["report.html"]
    assert units.files_in(tmp_path / "out", "pairs") == {}


def test_logs_for_other_programs_are_not_fetched():
    everything = ["train/x/*"]
    assert units.wanted("train/x/model/config.json", everything)
    assert not units.wanted("train/x/trackers/events.1", everything)
    assert not units.wanted("train/y/model/config.json", everything)
