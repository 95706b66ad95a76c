"""What columns mean: known data sets, what cannot be told for certain, and what is not text."""

from typing import Any

import pytest

from scoreonce.pipeline.detection.roles import Recognised, recognise
from scoreonce.pipeline.text.chat import Message
from scoreonce.pipeline.text.formats import Example, read_row, require_shared_turn
from scoreonce.pipeline.text.graded import read_list
from scoreonce.pipeline.text.pairing import Pairing
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.schemas.errors import InputError


def render(messages: list[Message], add_generation_prompt: bool) -> str:
    """A template with one line per message: `<user>2 + 2?|`."""
    text = "".join(f"<{message['role']}>{message['content']}|" for message in messages)
    return text + "<assistant>" * add_generation_prompt


def recognised(*rows: dict[str, Any], **settings: Any) -> Recognised:
    found = list(dict.fromkeys(name for row in rows for name in row))
    return recognise(found, rows, settings.pop("columns", {}), **settings)


def texts(row: dict[str, Any], among: Recognised) -> tuple[str, str, str | None]:
    """Prompt, chosen and rejected of a row."""
    if among.format == "graded":
        (example,) = read_list(row, among.columns, render, Pairing(), None)
        assert isinstance(example, Example)
    else:
        example = read_row(among.format, row, among.columns, render)
    return example.prompt, example.chosen, example.rejected


def read(row: dict[str, Any], **settings: Any) -> tuple[str, str, str | None]:
    return texts(row, recognised(row, **settings))


SIDES = {"chosen": "Sure! Blue.", "rejected": "Sure! Red."}
ASKED, ANSWERED = {"from": "human", "value": "Sky?"}, {"from": "gpt", "value": "Blue."}
WITH_SYSTEM = "<system>Be short.|<user>Sky?|<assistant>"
TWO = {"prompt": "Sky?", "response_1": "Blue.", "response_2": "Red."}


@pytest.mark.parametrize("name", ["question", "instruction", "query", "input", "context", "history", "Question"])
def test_the_prompt_under_another_name_is_never_guessed_from_what_two_answers_share(name):
    assert read({name: "Sky?", **SIDES}) == ("Sky?", "Sure! Blue.", "Sure! Red.")


@pytest.mark.parametrize(
    ("given", "prompt"), [("Sky?", "Say the colour.\nSky?"), ("", "Say the colour."), (None, "Say the colour.")]
)
def test_instruction_and_input_are_lines_of_one_prompt(given, prompt):
    row = {"instruction": "Say the colour.", "input": given, **SIDES}
    assert texts(row, recognised(row, {**row, "input": "x"})) == (prompt, "Sure! Blue.", "Sure! Red.")


def test_an_input_that_is_always_empty_leaves_the_instruction():
    assert read({"instruction": "Sky?", "input": "", **SIDES})[0] == "Sky?"


@pytest.mark.parametrize("name", ["prompt", "question", "input"])
def test_a_system_column_is_the_system_turn_whatever_the_prompt_is_called(name):
    row = {"system": "Be short.", name: "Sky?", **SIDES}
    assert read(row) == (WITH_SYSTEM, "Sure! Blue.|", "Sure! Red.|")
    assert read(row, columns={"system": ""})[0] == "Sky?"


def test_conversations_as_sharegpt_writes_them():
    row = {"conversations": [ASKED], "chosen": ANSWERED, "rejected": {"from": "gpt", "value": "Red."}}
    assert read(row) == ("<user>Sky?|<assistant>", "Blue.|", "Red.|")
    assert read({"trajectory": [ASKED], "chosen": "Blue.", "rejected": "Red."})[1:] == ("Blue.|", "Red.|")


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"question": "Sky?", "context": "It is day.", **SIDES}, "question, context"),
        ({"user_question": "Sky?", **SIDES}, "user_question"),
        ({"theProblem": "Sky?", **SIDES}, "theProblem"),
        ({"id": 1, "problem": "Sky?", "chosen": "Yes.", "rejected": "No."}, "problem"),
    ],
)
def test_columns_that_may_be_the_prompt_are_refused_with_the_mapping_to_write(row, named):
    with pytest.raises(InputError, match="may be the prompt") as caught:
        recognised(row)
    assert caught.value.found.startswith(named)
    assert f'prompt = "{named.split(",")[0]}"' in caught.value.fix


@pytest.mark.parametrize("name", ["prompt_id", "question_type", "input_tokens", "task"])
def test_attributes_of_the_prompt_are_not_the_prompt(name):
    start = "\n\nHuman: hi\n\nAssistant:"
    row = {name: "7", "chosen": f"{start} Yes.", "rejected": f"{start} No."}
    assert (recognised(row).format, read(row)[0]) == ("implicit", start)


def test_texts_that_share_no_turn_have_no_prompt():
    with pytest.raises(InputError, match="no prompt") as caught:
        recognised({"chosen": "Sure! Blue.", "rejected": "Sure! Red.", "id": 3})
    assert 'format = "implicit"' in caught.value.fix
    assert recognised({"chosen": "Sure! Blue.", "rejected": "Sure! Red."}, format="implicit").turns_only is False


def test_among_transcripts_the_row_that_shares_no_turn_is_refused():
    start = "\n\nHuman: hi\n\nAssistant:"
    good, bad = {"chosen": f"{start} a", "rejected": f"{start} b"}, {"chosen": "Sure! Blue.", "rejected": "Sure! Red."}
    found = recognised(good, good, bad)
    assert (found.format, found.turns_only) == ("implicit", True)
    require_shared_turn(good, found.columns)
    with pytest.raises(RowError, match="no_shared_prompt"):
        require_shared_turn(bad, found.columns)


def test_one_row_of_messages_among_rows_of_text_does_not_decide():
    text = {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Red."}
    odd = {**text, "chosen": [{"role": "assistant", "content": "Blue."}]}
    found = recognised(odd, text, text)
    assert found.format == "pairs"
    with pytest.raises(RowError, match="'chosen' should be text, is a list"):
        texts(odd, found)


@pytest.mark.parametrize(
    ("row", "settings", "second_is_better"),
    [
        ({**TWO, "preference": 2}, {}, True),
        ({**TWO, "preference": 1}, {"coding": "1/2"}, False),
        ({**TWO, "preference": 1}, {"coding": "1/0"}, False),
        ({**TWO, "preference": 1}, {}, True),
        ({**TWO, "preference": "A"}, {}, False),
        ({**TWO, "preference_strength": -2}, {}, False),
        ({**TWO, "preference_strength": 1}, {}, True),
        ({**TWO, "overall_preference": 3}, {}, True),
        ({**TWO, "winner": "model_b"}, {}, True),
        ({**TWO, "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}, {}, False),
        ({**TWO, "winner_model_a": 0, "winner_model_b": 1}, {}, True),
        ({**TWO, "left": 0, "right": 1}, {"columns": {"winner_1": "left", "winner_2": "right"}}, True),
        ({**TWO, "choice": "second"}, {"columns": {"preference": "choice"}}, True),
    ],
)
def test_which_response_is_better(row, settings, second_is_better):
    sides = ("Red.", "Blue.") if second_is_better else ("Blue.", "Red.")
    assert read(row, **settings) == ("Sky?", *sides)


def test_responses_under_the_names_of_published_sets():
    better = {"better_response_id": 0}
    assert read({"prompt": "Sky?", "response_0": "Blue.", "response_1": "Red.", **better})[1] == "Blue."
    shp = {"history": "Sky?", "human_ref_A": "Blue.", "human_ref_B": "Red.", "labels": 1}
    assert read(shp) == ("Sky?", "Blue.", "Red.")
    steer = {"context": [{"role": "user", "content": "Sky?"}], "response1": "Blue.", "response2": "Red."}
    assert read({**steer, "overall_preference": -1}) == ("<user>Sky?|<assistant>", "Blue.|", "Red.|")


def test_conversations_of_an_arena():
    asked = {"role": "user", "content": "Sky?"}
    row = {f"conversation_{side}": [asked, {"role": "assistant", "content": text}] for side, text in ("aB", "bR")}
    assert read({**row, "winner": "model_b"}) == ("<user>Sky?|<assistant>", "R|", "B|")
    with pytest.raises(RowError, match="a tie"):
        texts({**row, "winner": "tie"}, recognised({**row, "winner": "model_a"}))


def test_turns_of_an_arena_as_json_lists():
    row = {"prompt": '["Sky?"]', "response_a": '["Blue."]', "response_b": '["Red."]', "winner_model_a": 1}
    row |= {"winner_model_b": 0, "winner_tie": 0}
    found = recognised(row)
    assert texts(row, found) == ("Sky?", "Blue.", "Red.")
    longer = {**row, "prompt": '["Sky?", "Sea?"]', "response_a": '["Blue.", "Deep."]', "response_b": '["Red.", "Dry."]'}
    assert texts(longer, found) == (
        "<user>Sky?|<assistant>",
        "Blue.|<user>Sea?|<assistant>Deep.|",
        "Red.|<user>Sea?|<assistant>Dry.|",
    )
    with pytest.raises(RowError, match="one text for each of 2 prompts"):
        texts({**longer, "response_a": '["Blue.", null]'}, found)


def test_the_preference_says_how_it_was_read_and_what_it_holds():
    rows = [{**TWO, "preference": value} for value in (1, 2, 2)]
    assert recognised(*rows).notes[0] == (
        "'preference' is read as \"1/2\": 1: the first is better, 2: the second (2: 2, 1: 1 in the first rows)"
    )


@pytest.mark.parametrize(
    ("values", "settings", "what"),
    [
        ((0, 1, 2), {}, "do not say which"),
        ((3, 4), {"coding": "1/2"}, "No value of 'preference'"),
        ((0, 1), {"coding": "winners"}, "columns of the winner are not named"),
    ],
)
def test_values_that_cannot_mean_a_preference(values, settings, what):
    with pytest.raises(InputError, match=what):
        recognised(*({**TWO, "preference": value} for value in values), **settings)


def test_an_unknown_value_among_others_of_the_coding_that_is_named():
    rows = [{**TWO, "preference": value} for value in (1, 2, 9)]
    found = recognised(*rows, coding="1/2")
    with pytest.raises(RowError, match="'preference' is a number: 9"):
        texts(rows[2], found)


@pytest.mark.parametrize("column", ["answers", "responses", "completions"])
@pytest.mark.parametrize(("grade", "values"), [("rank", (1, 2)), ("score", (9, 3)), ("overall_score", (9, 3))])
def test_lists_of_objects_with_a_rank_or_a_score(column, grade, values):
    items = [
        {"answer": text, "model": "m", grade: value} for text, value in zip(("Blue.", "Red."), values, strict=True)
    ]
    assert read({"prompt": "Sky?", column: items}) == ("Sky?", "Blue.", "Red.")


def test_fields_of_nested_lists_are_named_with_a_dot():
    row = {"prompt": "Sky?", "votes": [{"body": "Blue.", "place": 2}, {"body": "Red.", "place": 1}]}
    assert read(row, columns={"responses": "votes.body", "ranks": "votes.place"})[1] == "Red."
    assert read(row, columns={"responses": "votes.body", "scores": "votes.place"})[1] == "Blue."


@pytest.mark.parametrize("items", ["no list", [1, 2], [{"answer": "a", "rank": "first"}]])
def test_a_nested_list_that_is_none_goes_to_quarantine(items):
    good = {"prompt": "Sky?", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]}
    with pytest.raises(RowError, match="wrong_type"):
        texts({**good, "answers": items}, recognised(good))


@pytest.mark.parametrize(
    ("column", "value"), [("images", ["a.png"]), ("image", {"bytes": b"x"}), ("videos", ["v"]), ("audio", "a.wav")]
)
def test_what_is_not_text_is_refused_by_name(column, value):
    row = {"prompt": "Sky?", **SIDES}
    with pytest.raises(InputError, match=column):
        recognised({**row, column: value})
    found = recognised({**row, column: None})
    found.columns.require_only_text({**row, column: []})
    with pytest.raises(RowError, match=f"not_only_text.*{column}"):
        found.columns.require_only_text({**row, column: value})


def test_columns_that_are_not_used_are_named():
    assert recognised({"prompt": "Sky?", **SIDES, "id": 1, "context": "x"}).notes == ("not used: id, context",)


def test_a_missing_column_comes_with_a_mapping_of_likely_columns():
    with pytest.raises(InputError, match="lacks a column") as caught:
        recognised({"ask": "Sky?", "better_one": "Blue.", "worse_one": "Red."})
    assert '{ prompt = "ask", chosen = "better_one", rejected = "worse_one" }' in caught.value.fix


def test_numbers_of_an_untyped_table():
    row = {"prompt": "Sky?", **SIDES, "chosen_score": "2.5", "rejected_score": None}
    found = recognised(row, untyped=True)
    example = read_row("pairs", row, found.columns, render)
    assert (example.chosen_score, example.rejected_score) == (2.5, None)
    with pytest.raises(RowError, match="wrong_type"):
        read_row("pairs", {**row, "chosen_score": "good"}, found.columns, render)
