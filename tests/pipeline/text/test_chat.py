"""The shapes that messages come in, each against the messages that it means."""

import json

import pytest

from scoreonce.pipeline.text.chat import (
    Message,
    conversation_of,
    messages_of,
    render_completion,
    render_prompt,
    tools_of,
    with_system,
    with_tools,
)
from scoreonce.pipeline.text.quarantine import REASONS, RowError

USER = {"role": "user", "content": "hi"}
YES = {"role": "assistant", "content": "yes"}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def call(arguments: object) -> dict:
    return {"type": "function", "function": {"name": "weather", "arguments": arguments}}


def refused(value: object) -> str:
    with pytest.raises(RowError) as caught:
        messages_of(value, "chosen")
    assert caught.value.reason in REASONS
    return f"{caught.value.reason}: {caught.value.detail}"


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("Human", "user"),
        ("prompter", "user"),
        ("gpt", "assistant"),
        ("Assistant", "assistant"),
        ("model", "assistant"),
        ("bot", "assistant"),
        ("SYSTEM", "system"),
        ("developer", "developer"),
        ("observation", "tool"),
        ("ipython", "ipython"),
    ],
)
def test_roles_by_the_names_of_datasets(role, expected):
    assert messages_of([{"role": role, "content": "x"}], "chosen") == [{"role": expected, "content": "x"}]
    assert messages_of([{"from": role, "value": "x"}], "chosen") == [{"role": expected, "content": "x"}]
    assert messages_of({"role": role, "text": "x"}, "chosen") == [{"role": expected, "content": "x"}]


def test_an_unknown_role_is_named():
    assert refused([USER, {"role": "narrator", "content": "x"}]).startswith(
        "unknown_role: chosen[1] has the role 'narrator'; known are system, "
    )


def test_parts_of_text_are_joined():
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b", "image_url": None}, "c"]
    assert messages_of([{"role": "user", "content": parts}], "chosen") == [{"role": "user", "content": "a bc"}]


@pytest.mark.parametrize("kind", ["image_url", "image", "input_audio", "video", "thinking"])
def test_parts_of_another_type_are_refused_by_name(kind):
    part = {"type": kind, kind: {"url": "x"}}
    assert refused([{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]) == (
        f"not_only_text: chosen[0] has a part of type {kind!r}; only parts of type text can be used"
    )


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}])
@pytest.mark.parametrize("arguments", [{"city": "Rome"}, '{"city": "Rome"}'])
def test_a_turn_of_tool_calls_needs_no_text_and_its_arguments_are_an_object(content, arguments):
    given = {"role": "assistant", "tool_calls": [call(arguments)], **content}
    text = {key: value for key, value in content.items() if value is not None}
    assert messages_of([given], "chosen") == [{"role": "assistant", "tool_calls": [call({"city": "Rome"})], **text}]


def test_tool_calls_in_other_spellings():
    expected = [{"role": "assistant", "content": "", "tool_calls": [call({"city": "Rome"})]}]
    text = json.dumps(call({"city": "Rome"})["function"])
    assert messages_of([{"from": "function_call", "value": text}], "chosen") == expected
    older = {"role": "assistant", "content": "", "tool_calls": [], "function_call": json.loads(text)}
    assert messages_of([older], "chosen") == expected
    whole = {"role": "assistant", "content": "", "tool_calls": json.dumps([call('{"city": "Rome"}')])}
    assert messages_of([whole], "chosen") == expected
    bare = [{"name": "weather", "arguments": '{"city": "Rome"}'}]
    assert messages_of([{"role": "assistant", "tool_calls": bare}], "chosen")[0]["tool_calls"] == [
        {"name": "weather", "arguments": {"city": "Rome"}}
    ]


def test_arguments_that_are_no_object_stay_as_they_are():
    assert messages_of([{"role": "assistant", "tool_calls": [call("Rome")]}], "chosen")[0]["tool_calls"] == [
        call("Rome")
    ]


def test_no_tool_calls_are_no_key():
    assert messages_of([{**YES, "tool_calls": []}], "chosen") == [YES]
    assert refused([{"role": "assistant", "content": None, "tool_calls": []}]).startswith("wrong_type")


def test_the_keys_of_a_tools_answer_are_kept():
    answer = {"role": "tool", "content": "sunny", "tool_call_id": "1", "name": "weather"}
    assert messages_of([answer], "prompt") == [answer]


@pytest.mark.parametrize("text", ['[{"role": "user", "content": "hi"}]', " [{'role': 'user', 'content': 'hi'}]\n"])
def test_the_source_of_messages(text):
    assert conversation_of(text) == [USER]


@pytest.mark.parametrize(
    "text", ["hi", "", "[1, 2]", "[]", "[{}]", '[{"name": "x"}]', "[{'a': 1}", "[{" * 3000 + "]", '[{"role": 1}]']
)
def test_other_texts_are_no_messages(text):
    assert conversation_of(text) is None


@pytest.mark.parametrize("value", [[WEATHER], json.dumps([WEATHER]), [json.dumps(WEATHER)], WEATHER])
def test_tools_as_a_list_or_as_json_text(value):
    assert tools_of(value) == [WEATHER]


@pytest.mark.parametrize("value", [None, [], "", " ", "[]", "null"])
def test_a_row_without_tools(value):
    assert tools_of(value) is None


@pytest.mark.parametrize("value", ["weather", ["weather"], 3])
def test_tools_that_are_no_schemas(value):
    with pytest.raises(RowError, match="list of JSON schemas"):
        tools_of(value)


def test_the_system_column_becomes_the_first_turn():
    system = {"role": "system", "content": "Be kind."}
    assert with_system([USER], "Be kind.") == [system, USER]
    assert with_system([system, USER], "Be kind.") == [system, USER]
    assert with_system([USER], None) == with_system([USER], "") == [USER]
    with pytest.raises(RowError, match="two_systems"):
        with_system([system, USER], "Be terse.")
    with pytest.raises(RowError, match="system should be text, is a number: 3"):
        with_system([USER], 3)


def contents(messages: list[Message], add_generation_prompt: bool, tools: object = None) -> str:
    """A template that knows neither tools, nor calls, nor system turns."""
    return "|".join(message.get("content", "") for message in messages if message["role"] != "system")


def test_what_a_template_leaves_out_is_an_error():
    """Dropped silently, the model would answer a prompt that it never saw."""
    with pytest.raises(RowError, match="nothing of the row's tools"):
        render_prompt([USER], with_tools(contents, [WEATHER]))
    with pytest.raises(RowError, match="leaves out the system turn 'Be kind"):
        render_prompt([{"role": "system", "content": "Be kind."}, USER], contents)
    calling = {"role": "assistant", "content": "let me see", "tool_calls": [call({})]}
    with pytest.raises(RowError, match="nothing of the tool calls"):
        render_prompt([USER, calling, {"role": "tool", "content": "sunny"}], contents)
    with pytest.raises(RowError, match="nothing of the tool calls"):
        render_completion([USER], "hi", [calling], contents)


def test_a_template_that_needs_the_calls_writes_them():
    def strict(messages: list[Message], add_generation_prompt: bool) -> str:
        if messages[-1]["role"] == "tool" and "tool_calls" not in messages[-2]:
            raise RowError("template_refuses", "an answer without a call")
        return "text"

    calling = {"role": "assistant", "tool_calls": [call({})]}
    assert render_prompt([USER, calling, {"role": "tool", "content": "sunny"}], strict) == "text"
