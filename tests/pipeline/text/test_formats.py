"""Every way of stating a preference, and every reason why a row of it cannot be read."""

import pytest

from scoreonce.pipeline.text.chat import Message
from scoreonce.pipeline.text.dataset_columns import match_columns
from scoreonce.pipeline.text.formats import FORMATS, Example, detect, read_row, require_columns
from scoreonce.pipeline.text.quarantine import REASONS, RowError
from scoreonce.pipeline.text.transcripts import shared_prefix, split_transcripts
from scoreonce.schemas.errors import InputError

USER = {"role": "user", "content": "2 + 2?"}
FOUR = {"role": "assistant", "content": "4"}
FIVE = {"role": "assistant", "content": "5"}


def render(messages: list[Message], add_generation_prompt: bool) -> str:
    """A template with one line per message: `<user>2 + 2?|`."""
    text = "".join(f"<{message['role']}>{message['content']}|" for message in messages)
    return text + "<assistant>" * add_generation_prompt


def read(row: dict, name: str | None = None, found: list[str] | None = None, **renamed: str) -> Example:
    columns = match_columns(found or list(row), renamed)
    return read_row(name or detect(columns, list(row), [row]), row, columns, render)


def reason(row: dict, name: str, found: list[str] | None = None) -> str:
    with pytest.raises(RowError) as caught:
        read(row, name, found)
    assert caught.value.reason in REASONS
    return caught.value.reason


def test_pairs_of_text_with_scores_and_source():
    row = {"prompt": "p", "chosen": "c", "rejected": "r", "score_chosen": 2, "score_rejected": 1.5, "source": "here"}
    assert read(row) == Example("p", "c", "r", 2.0, 1.5, "here")


def test_columns_are_renamed():
    row = {"question": "p", "better": "c", "worse": "r", "subset": 7}
    assert read(row, prompt="question", chosen="better", rejected="worse", source="subset") == Example(
        "p", "c", "r", source="7"
    )


def test_a_score_that_is_not_a_number_is_no_score():
    assert read({"prompt": "p", "chosen": "c", "rejected": "r", "chosen_score": float("nan")}).chosen_score is None


@pytest.mark.parametrize(("preference", "chosen"), [(0, "a"), (0.2, "a"), (1, "b"), (1.0, "b")])
def test_labelled_responses(preference, chosen):
    row = {"prompt": "p", "response_1": "a", "response_2": "b", "preference": preference}
    assert read(row).chosen == chosen


@pytest.mark.parametrize("preference", [0.5, -1, 2])
def test_a_label_that_prefers_neither(preference):
    row = {"prompt": "p", "response_1": "a", "response_2": "b", "preference": preference}
    assert reason(row, "labelled") == "no_preference"


def test_implicit_prompt_of_hh_ends_at_the_last_shared_assistant_turn():
    """Both answers begin with " I", and the assistant's first answer is shared: neither moves the prompt's end."""
    start = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why?\n\nAssistant:"
    example = read({"chosen": start + " I think so.", "rejected": start + " I do not."})
    assert example == Example(start, " I think so.", " I do not.")


def test_implicit_prompt_where_the_conversations_part_before_the_last_turn():
    start = "\n\nHuman: hi\n\nAssistant:"
    chosen, rejected = " a\n\nHuman: b\n\nAssistant: c", " d\n\nHuman: e\n\nAssistant: f"
    assert split_transcripts(start + chosen, start + rejected) == (start, chosen, rejected)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue", "The sky is black", "The sky is"),  # the space goes with the word
        ("Sky?\nblue", "Sky?\nred", "Sky?\n"),  # a line's end stays
        ("Sky?\n\n  blue", "Sky?\n\n  black", "Sky?\n\n "),  # one space only
        ("<|im_start|>assistant\nThe sea", "<|im_start|>assistant\nThe sky", "<|im_start|>assistant\n"),
        ("[INST] a [/INST] b c", "[INST] a [/INST] b d", "[INST] a [/INST]"),
        ("### Response:\nb c", "### Response:\nb d", "### Response:\n"),
        ("one two", "one two three", "one"),  # "two" may be the start of a word
    ],
)
def test_implicit_prompt_backs_off_to_a_boundary(chosen, rejected, prompt):
    found = split_transcripts(chosen, rejected)
    assert found[0] == prompt
    assert (found[0] + found[1], found[0] + found[2]) == (chosen, rejected)


@pytest.mark.parametrize(
    ("first", "second", "length"), [("", "", 0), ("a", "b", 0), ("abc", "abd", 2), ("ab", "abc", 2)]
)
def test_shared_prefix(first, second, length):
    assert shared_prefix(first, second) == length


def test_messages_with_a_prompt():
    expected = Example("<user>2 + 2?|<assistant>", "4|", "5|", rendered=True)
    assert read({"prompt": [USER], "chosen": [FOUR], "rejected": [FIVE]}) == expected
    assert read({"prompt": [USER], "chosen": "4", "rejected": "5"}) == expected
    assert read({"prompt": "2 + 2?", "chosen": [FOUR], "rejected": [FIVE]}) == expected


def test_whole_conversations_share_the_prompt_with_or_without_a_prompt_column():
    row = {"chosen": [USER, FOUR, USER, FOUR], "rejected": [USER, FOUR, USER, FIVE]}
    expected = Example("<user>2 + 2?|<assistant>4|<user>2 + 2?|<assistant>", "4|", "5|", rendered=True)
    assert read(row) == expected
    assert read({"prompt": "2 + 2?", **row}) == expected


def test_conversations_that_part_at_a_users_turn_keep_the_turns_behind_the_last_shared_answer():
    other = {"role": "user", "content": "2 + 3?"}
    row = {"chosen": [USER, FOUR, USER, FOUR], "rejected": [USER, FIVE, other, FIVE]}
    assert read(row).chosen == "4|<user>2 + 2?|<assistant>4|"


def test_completion_only_as_text_messages_or_one_conversation():
    assert read({"prompt": "p", "completion": "c"}) == Example("p", "c", None)
    expected = Example("<user>2 + 2?|<assistant>", "4|", None, rendered=True)
    assert read({"prompt": [USER], "completion": [FOUR]}) == expected
    assert read({"messages": [USER, FOUR]}) == expected


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        {"prompt": "2 + 2?", "response_1": "5", "response_2": "4", "preference": 1},
        {"prompt": [USER], "chosen": [FOUR], "rejected": [FIVE]},
        {"chosen": [USER, FOUR], "rejected": [USER, FIVE]},
        {"prompt": "2 + 2?", "completion": "4"},
        {"messages": [USER, FOUR]},
    ],
)
def test_a_system_column_is_the_first_turn_in_every_format_with_a_prompt(row):
    found = read({"system": "Add.", **row})
    assert (found.prompt, found.chosen, found.rendered) == ("<system>Add.|<user>2 + 2?|<assistant>", "4|", True)


def test_keys_that_parquet_adds_as_null_are_left_out():
    seen = []
    row = {"prompt": [{**USER, "tool_calls": None}], "chosen": [FOUR], "rejected": [FIVE]}
    columns = match_columns(list(row), {})
    read_row("messages", row, columns, lambda messages, add: seen.append(messages) or render(messages, add))
    assert seen[0] == [USER]


TEXT = {"prompt": "p", "chosen": "c", "rejected": "r"}
CHAT = {"prompt": [USER], "chosen": [FOUR], "rejected": [FIVE]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"chosen": " \n"}, "chosen_is_blank"),
        ({"rejected": ""}, "rejected_is_blank"),
        ({"rejected": "c"}, "sides_are_identical"),
        ({"chosen": None}, "missing_value"),
        ({"chosen": 3}, "wrong_type"),
        ({"prompt": ["p"]}, "wrong_type"),
        ({"rejected": "\ud800"}, "invalid_utf8"),
        ({"chosen_score": "good"}, "wrong_type"),
        ({"chosen_score": True}, "wrong_type"),
    ],
)
def test_reasons_of_text(change, expected):
    assert reason({**TEXT, **change}, "pairs") == expected


def test_a_row_without_the_key_misses_the_value():
    assert reason({"prompt": "p", "chosen": "c"}, "pairs", list(TEXT)) == "missing_value"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"chosen": [{"role": "assistant", "content": " "}]}, "chosen_is_blank"),
        ({"rejected": []}, "rejected_is_blank"),
        ({"rejected": [FOUR]}, "sides_are_identical"),
        ({"chosen": [{"role": "assistant"}]}, "wrong_type"),
        ({"chosen": ["4"]}, "wrong_type"),
        ({"chosen": 4}, "wrong_type"),
        ({"prompt": []}, "missing_value"),
        ({"prompt": None, "chosen": [USER, FOUR], "rejected": [{**USER, "content": "?"}, FIVE]}, "no_shared_prompt"),
    ],
)
def test_reasons_of_messages(change, expected):
    assert reason({**CHAT, **change}, "messages") == expected


def test_transcripts_without_a_shared_start():
    assert reason({"chosen": "a", "rejected": "b"}, "implicit") == "no_shared_prompt"
    assert reason({"chosen": "a", "rejected": "a"}, "implicit") == "sides_are_identical"


def test_a_template_that_rewrites_the_prompt():
    """The template numbers the messages from the end, so a completion changes what stands before it."""

    def from_the_end(messages, add_generation_prompt):
        return "".join(f"{len(messages) - index}{message['content']}" for index, message in enumerate(messages))

    with pytest.raises(RowError, match="template_rewrites_prompt"):
        read_row("messages", CHAT, match_columns(list(CHAT), {}), from_the_end)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (TEXT, "pairs"),
        ({"chosen": "a b", "rejected": "a c"}, "implicit"),
        (CHAT, "messages"),
        ({"prompt": "p", "completion": "c"}, "completion"),
        ({"messages": []}, "completion"),
        ({"prompt": "p", "response_1": "a", "response_2": "b", "preference": 0}, "labelled"),
    ],
)
def test_the_columns_tell_the_format(row, name):
    assert detect(match_columns(list(row), {}), list(row), [row]) == name
    require_columns(name, match_columns(list(row), {}), list(row))


def test_every_format_names_columns_that_can_be_renamed():
    for form in FORMATS.values():
        assert set(match_columns(["x"], dict.fromkeys(form.needs, "x")).names) == set(form.needs)


def test_a_missing_column_is_named_with_the_nearest_one_found():
    with pytest.raises(InputError) as caught:
        detect(match_columns(["prompt", "choosen", "rejected"], {}), ["prompt", "choosen", "rejected"], [])
    assert "chosen" in caught.value.what
    assert "Did you mean 'choosen'?" in caught.value.found
    with pytest.raises(InputError, match="prompt"):
        require_columns("pairs", match_columns(["chosen", "rejected"], {}), ["chosen", "rejected"])


@pytest.mark.parametrize("renamed", [{"promt": "question"}, {"prompt": "questoin"}])
def test_misspelt_renaming(renamed):
    with pytest.raises(InputError) as caught:
        match_columns(["question", "chosen", "rejected"], renamed)
    assert "Did you mean" in caught.value.found


def test_messages_beside_a_lone_completion_column_are_the_data():
    """A dataset with `messages` and `completion` has no `prompt`: the conversation says both."""
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert read({"messages": turns, "completion": "c"}).chosen == read({"messages": turns}).chosen
    assert reason({"messages": None, "completion": "c"}, "completion") == "missing_value"


@pytest.mark.parametrize("score", [10**400, -(10**309)])
def test_a_number_that_is_too_large(score):
    row = {"prompt": "p", "chosen": "c", "rejected": "r", "chosen_score": score}
    assert reason(row, "pairs") == "wrong_type"


@pytest.mark.parametrize("text", ["9" * 5000, "[" + "9" * 5000 + "]", "[" * 50_000])
def test_a_list_as_text_that_cannot_be_parsed(text):
    row = {"prompt": "p", "responses": text, "scores": [1, 2]}
    columns = match_columns(list(row), {})
    with pytest.raises(RowError) as caught:
        columns.items(row, "responses")
    assert caught.value.reason == "wrong_type"
