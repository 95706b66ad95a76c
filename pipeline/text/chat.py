"""Conversations: the shapes that messages come in, and their text by the tokenizer's chat template.

A message is what `apply_chat_template` takes: a role, text under `content`, perhaps `tool_calls` and further keys.
Read as such: `from` and `value` (ShareGPT), the usual names of the roles, content in parts of type text, calls and
their arguments as JSON text, and whole conversations as JSON text.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from typing import Any, Protocol

from scoreonce.pipeline.text.quarantine import RowError, kind_of

Message = dict[str, Any]
Tools = list[dict[str, Any]]
# (messages, add_generation_prompt) -> text
Render = Callable[[list[Message], bool], str]


class RenderWithTools(Protocol):
    """Writes messages, and the tools that a row has, as text."""

    def __call__(self, messages: list[Message], add_generation_prompt: bool, tools: Tools | None = None) -> str:
        """The text. Raises `RowError` where the template refuses the messages."""


ROLE_KEYS = ("role", "from")
TEXT_KEYS = ("content", "value", "text")
TEXT_PARTS = ("text", "input_text", "output_text")
# Names of roles in published datasets, by what templates call them.
ROLES = {
    "system": ("system",),
    "developer": ("developer",),
    "user": ("user", "human", "prompter", "usr"),
    "assistant": ("assistant", "gpt", "model", "bot", "ai", "chatbot", "chatgpt"),
    "tool": ("tool", "observation", "function_response", "tool_response"),
    # Templates that know these two spell them so.
    "function": ("function",),
    "ipython": ("ipython",),
}
ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
CALLS = ("function_call", "tool_call")  # ShareGPT: a turn of the assistant that is the JSON text of a call


def messages_of(value: object, name: str) -> list[Message]:
    """A column's value as messages, without null keys. Raises `RowError` if it is no message or list of messages."""
    if isinstance(value, dict):
        return [_message(value, name)]
    if not isinstance(value, list):
        raise RowError("wrong_type", f"{name} should be a list of messages, is {kind_of(value)}")
    return [_message(item, f"{name}[{index}]") for index, item in enumerate(value)]


def conversation_of(text: str) -> list[Message] | None:
    """The list of messages that a text is the source of, as JSON or as Python writes it; None for any other text."""
    text = text.strip()
    if not (text.startswith("[") and text[1:].lstrip().startswith("{") and text.endswith("]")):
        return None
    found = _parsed(text)
    if isinstance(found, str):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return found if isinstance(found, list) and all(map(_is_message, found)) else None


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(value.get(key), str) for key in ROLE_KEYS)


def _parsed(value: object) -> Any:
    """The value of a JSON text; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _message(value: object, name: str) -> Message:
    if not isinstance(value, dict):
        raise RowError("wrong_type", f"{name} should be a message, is {kind_of(value)}")
    # Parquet gives every struct all keys; templates test for keys such as tool_calls.
    rest = {key: item for key, item in value.items() if item is not None}
    role = _pop(rest, ROLE_KEYS)
    if not isinstance(role, str):
        raise RowError("wrong_type", f"{name} should have text under 'role', has {kind_of(role)}")
    content = _content(_pop(rest, TEXT_KEYS), name)
    known = role.strip().lower()
    if known in CALLS:
        return {"role": "assistant", "content": "", "tool_calls": _wrapped(_calls(content, name)), **rest}
    if known not in ROLE_OF:
        raise RowError("unknown_role", f"{name} has the role {role!r}; known are {', '.join(ROLE_OF)}")
    calls = _calls(rest.pop("tool_calls", None), name) or _wrapped(_calls(rest.pop("function_call", None), name))
    if content is None and not calls:
        raise RowError("wrong_type", f"{name} should have text under 'content', has null")
    # An empty list of calls is left out, as templates test for the key.
    return {
        "role": ROLE_OF[known],
        **rest,
        **({} if content is None else {"content": content}),
        **({"tool_calls": calls} if calls else {}),
    }


def _pop(message: Message, keys: tuple[str, ...]) -> Any:
    key = next((key for key in keys if key in message), None)
    return None if key is None else message.pop(key)


def _content(value: object, name: str) -> str | None:
    """The text of a message: as it is, or its parts joined."""
    if not isinstance(value, list):
        if value is None or isinstance(value, str):
            return value
        raise RowError("wrong_type", f"{name} should have text under 'content', has {kind_of(value)}")
    return "".join(_part(part, name) for part in value)


def _part(part: object, name: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise RowError("wrong_type", f"{name} should have parts of content, has {kind_of(part)}")
    kind, text = part.get("type", "text"), part.get("text")
    if kind not in TEXT_PARTS or not isinstance(text, str):
        raise RowError("not_only_text", f"{name} has a part of type {kind!r}; only parts of type text can be used")
    return text


def _calls(value: object, name: str) -> list[dict[str, Any]]:
    """The tool calls of a message, with their arguments as objects: templates write them as JSON themselves."""
    found = _parsed(value) or []
    calls = [_parsed(call) for call in (found if isinstance(found, list) else [found])]
    for call in calls:
        if not isinstance(call, dict):
            raise RowError("wrong_type", f"{name} should have tool calls as objects, has {kind_of(call)}")
    return [_call(call) for call in calls]


def _wrapped(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls of the older spelling, a name and arguments alone, in that of `tool_calls`."""
    return [{"type": "function", "function": call} for call in calls]


def _call(call: dict[str, Any]) -> dict[str, Any]:
    if isinstance(call.get("function"), dict):
        return {**call, "function": _call(call["function"])}
    arguments = _parsed(call.get("arguments"))
    return {**call, "arguments": arguments} if isinstance(arguments, dict) else call


def tools_of(value: object) -> Tools | None:
    """A row's tools, a list of JSON schemas or its JSON text; None without any. Raises `RowError` for anything else."""
    found = _parsed(value.strip() if isinstance(value, str) else value)
    if not found:
        return None
    tools = [_parsed(tool) for tool in (found if isinstance(found, list) else [found])]
    for tool in tools:
        if not isinstance(tool, dict):
            raise RowError("wrong_type", f"tools should be a list of JSON schemas, has {kind_of(tool)}")
    return tools


def completion_messages(value: object, name: str) -> list[Message]:
    """A completion as messages: a text is one assistant message."""
    return [{"role": "assistant", "content": value}] if isinstance(value, str) else messages_of(value, name)


def prompt_messages(prompt: object) -> list[Message]:
    """A prompt as messages: a text is one user message."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else messages_of(prompt, "prompt")


def with_system(messages: list[Message], system: object) -> list[Message]:
    """The conversation with a system turn of this text before it, unless it begins with the same one.

    Raises `RowError` if it begins with another.
    """
    if system is None:
        return messages
    if not isinstance(system, str):
        raise RowError("wrong_type", f"system should be text, is {kind_of(system)}")
    if not system.strip():
        return messages
    if not messages or messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    if messages[0].get("content") != system:
        raise RowError("two_systems", f"{system[:60]!r}, and the conversation has {messages[0].get('content')!r:.60}")
    return messages


def shared_messages(chosen: list[Message], rejected: list[Message]) -> int:
    """How many messages of two whole conversations are the prompt: the shared ones before an assistant's turn."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    while shared > 0 and (
        shared == len(chosen)
        or shared == len(rejected)
        or not chosen[shared]["role"] == rejected[shared]["role"] == "assistant"
    ):
        shared -= 1
    return shared


def is_blank(messages: list[Message]) -> bool:
    """Whether no message has any text or tool call."""
    return not any(message.get("content", "").strip() or message.get("tool_calls") for message in messages)


def with_tools(render: RenderWithTools, tools: Tools | None) -> Render:
    """The renderer of a row's conversations. It raises `RowError` if the template writes nothing of the row's tools."""
    if tools is None:
        return render

    def rendered(messages: list[Message], add_generation_prompt: bool) -> str:
        text = render(messages, add_generation_prompt, tools)
        if add_generation_prompt and text == render(messages, add_generation_prompt):
            raise RowError("template_omits", "the template writes nothing of the row's tools")
        return text

    return rendered


def render_prompt(prompt: list[Message], render: Render) -> str:
    """The prompt as the model sees it at generation. Raises `RowError` if the template does."""
    if not prompt:
        raise RowError("missing_value", "the prompt has no message")
    text = render(prompt, True)
    for message in prompt:
        if message["role"] == "system" and message.get("content", "").strip() not in text:
            raise RowError("template_omits", f"the template leaves out the system turn {message['content'][:60]!r}")
    _require_calls(prompt, text, lambda messages: render(messages, True))
    return text


def _require_calls(messages: list[Message], text: str, render: Callable[[list[Message]], str]) -> None:
    """Raise `RowError` if the template knows no tool calls: the text is the same without them."""
    if not any("tool_calls" in message for message in messages):
        return
    bare = [
        {"content": "", **{key: value for key, value in message.items() if key != "tool_calls"}} for message in messages
    ]
    try:
        same = text == render(bare)
    except RowError:  # it misses them
        return
    if same:
        raise RowError("template_omits", "the template writes nothing of the tool calls")


def render_completion(prompt: list[Message], prompt_text: str, completion: list[Message], render: Render) -> str:
    """The part of the conversation's text after the prompt's.

    Raises `RowError` if the template renders the prompt differently once a completion follows: the model would be
    trained on a text that it never sees at generation.
    """
    whole = render([*prompt, *completion], False)
    if not whole.startswith(prompt_text):
        raise RowError("template_rewrites_prompt", _difference(prompt_text, whole))
    _require_calls(completion, whole, lambda messages: render([*prompt, *messages], False))
    return whole[len(prompt_text) :]


def _difference(prompt: str, whole: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
    if "think" in prompt[at:]:
        return (
            f"the prompt ends in {prompt[-40:]!r}, which opens a think block; with the completion it is "
            f"{whole[at : at + 40]!r} from character {at} on. Set data.chat_template, or data.chat_template_kwargs"
        )
    return f"at character {at}: {prompt[at : at + 40]!r} alone, {whole[at : at + 40]!r} with the completion"
