"""What raw data say besides their texts: positions, models and votes, for the very rows that were prepared."""

import json
from pathlib import Path
from typing import Any

import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages.audit.annotations import raw_annotations
from scoreonce.stages.config import Audit, Data
from scoreonce.stages.raw.raw_data import open_data

ROWS: list[dict[str, Any]] = [
    {
        "prompt": "a",
        "response_1": "x",
        "response_2": "y",
        "preference": 0,
        "model_1": "m",
        "model_2": "n",
        "votes": [1, 1, 2],
    },
    {
        "prompt": "b",
        "response_1": "x",
        "response_2": "y",
        "preference": 1,
        "model_1": "m",
        "model_2": "o",
        "votes": [2, 2, 0],
    },
    {
        "prompt": "c",
        "response_1": "x",
        "response_2": "y",
        "preference": 0.5,
        "model_1": "m",
        "model_2": "o",
        "votes": [1, 2],
    },
]
VOTES = Audit(votes="votes", vote_first=1, vote_second=2)


def read(folder: Path, rows: list[dict[str, Any]], audit: Audit = Audit(), **data: Any):  # noqa: B008
    path = folder / "raw.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    prepared = open_data(str(path), subset=None, split="train").inputs
    return raw_annotations(Data(source=str(path), **data), audit, prepared)


def test_positions_models_and_votes_are_those_of_the_chosen_side(tmp_path):
    found = read(tmp_path, ROWS, VOTES)
    train = found.by_split["train"]
    assert train["chosen_position"].to_list()[:2] == [1, 2]
    assert train["chosen_model"].to_list()[:2] == ["m", "o"]
    assert train["rejected_model"].to_list()[:2] == ["n", "m"]
    assert list(zip(train["votes_chosen"], train["votes_rejected"], strict=True))[:2] == [(2, 1), (2, 0)]
    assert found.by_split["test"].height == 3


def test_even_votes_count_as_judgements_though_their_row_is_in_quarantine(tmp_path):
    assert read(tmp_path, ROWS, VOTES).votes.rows() == [(2, 1), (2, 0), (1, 1)]


def test_data_without_any_of_it(tmp_path):
    assert read(tmp_path, [{"prompt": "a", "chosen": "x", "rejected": "y"}]) is None


def test_models_of_chosen_and_rejected(tmp_path):
    row = {"prompt": "a", "chosen": "x", "rejected": "y", "chosen_model": "m", "rejected_model": None}
    assert read(tmp_path, [row]).by_split["train"]["chosen_model"].to_list() == ["m"]


def test_data_that_are_gone_or_others_are_left_alone_unless_votes_are_asked_for(tmp_path):
    gone = Data(source=str(tmp_path / "gone.jsonl"))
    assert raw_annotations(gone, Audit(), {}) is None
    with pytest.raises(InputError, match="No such dataset"):
        raw_annotations(gone, VOTES, {})
    path = tmp_path / "raw.jsonl"
    path.write_text(json.dumps(ROWS[0]), encoding="utf-8")
    assert raw_annotations(Data(source=str(path)), Audit(), {}) is None
    with pytest.raises(InputError, match="data have changed since"):
        raw_annotations(Data(source=str(path)), VOTES, {})


def test_a_column_of_votes_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no column 'vote'") as error:
        read(tmp_path, ROWS, Audit(votes="vote"))
    assert "Did you mean 'votes'" in str(error.value)


def test_positions_follow_the_coding_of_the_preference(tmp_path):
    """SHP: 1 means that the first is better, so that the chosen response came first where it is 1."""
    rows = [{"history": "a", "human_ref_A": "x", "human_ref_B": "y", "labels": label} for label in (1, 0)]
    assert read(tmp_path, rows).by_split["train"]["chosen_position"].to_list()[:2] == [1, 2]
    strengths = [{"prompt": "a", "response_1": "x", "response_2": "y", "preference_strength": n} for n in (-2, 3, 0)]
    assert read(tmp_path, strengths).by_split["train"]["chosen_position"].to_list()[:2] == [1, 2]


def test_positions_of_csv_follow_numbers_that_are_written_as_text(tmp_path):
    path = tmp_path / "raw.csv"
    path.write_text("prompt,response_1,response_2,preference\na,x,y,0.2\nb,x,y,0.7\n")
    prepared = open_data(str(path), subset=None, split="train").inputs
    found = raw_annotations(Data(source=str(path)), Audit(), prepared)
    assert found.by_split["train"]["chosen_position"].to_list() == [1, 2]
