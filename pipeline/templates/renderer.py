"""Messages as text, by the tokenizer's chat template or another one.

A template is a program, and it may come from anybody. Whatever it raises is the reason why a row cannot be used; a
limit on its time is the caller's to give, as a context manager that raises `TimeoutError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, TemplateError, TemplateSyntaxError

from scoreonce.pipeline.text.chat import Message, RenderWithTools, Tools
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.schemas.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENDLESS_ROWS = 5  # as many rows as may exceed the time limit before the template is refused
# What `apply_chat_template` takes itself; a template never sees a variable of such a name.
NOT_VARIABLES = (
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "documents",
    "max_length",
    "messages",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
)


@dataclass(frozen=True)
class Template:
    """A chat template in place of the tokenizer's (None: the tokenizer's own), and variables for it."""

    text: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


def chat_renderer(
    tokenizer: PreTrainedTokenizerBase,
    template: Template = Template(),
    limit: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> RenderWithTools:
    """Renders messages, and the tools of a row, as `apply_chat_template` does.

    Raises `InputError` for variables that the template does not read. A call raises `RowError` for what the template
    raises, and `InputError` if there is no template, if it is not Jinja, or if it exceeds the limit again and again.
    """
    _require_variables(tokenizer, template)
    endless = 0

    def render(messages: list[Message], add_generation_prompt: bool, tools: Tools | None = None) -> str:
        nonlocal endless
        if template.text is None and tokenizer.chat_template is None:
            raise _no_template(tokenizer.name_or_path)
        if any(_computes_powers(source) for source in _sources(tokenizer, template)):
            raise RowError("template_refuses", "it computes a power (**), and no limit on time can stop a large one")
        try:
            with limit():
                text = tokenizer.apply_chat_template(
                    messages,
                    tools=tools,
                    chat_template=template.text,
                    add_generation_prompt=add_generation_prompt,
                    tokenize=False,
                    **template.variables,
                )
        except TemplateSyntaxError as error:
            raise InputError(
                "The chat template is not valid Jinja.",
                found=f"line {error.lineno}: {error.message}",
                where=_where(tokenizer, template),
                fix="Correct it, or set data.chat_template to another.",
            ) from None
        except TimeoutError as error:
            endless += 1
            if endless > ENDLESS_ROWS:
                raise _endless(str(error), _where(tokenizer, template)) from None
            raise RowError("template_refuses", str(error)) from None
        except TemplateError as error:
            raise RowError("template_refuses", str(error)) from None
        except Exception as error:  # a template can raise anything
            raise RowError("template_refuses", f"{type(error).__name__}: {error}") from None
        return str(text)

    return render


def _sources(tokenizer: PreTrainedTokenizerBase, template: Template) -> list[str]:
    """The template, or the templates by name that a tokenizer may have."""
    own = template.text or tokenizer.chat_template
    return list(own.values()) if isinstance(own, dict) else [own]


@cache
def _computes_powers(source: str) -> bool:
    """Whether a template has the operator `**` between two values; in `f(**given)` it stands before one."""
    before = ("", "")
    try:
        for _, kind, value in Environment().lex(source):
            if (kind, value) == ("operator", "**") and (before[0] != "operator" or before[1] in (")", "]", "}")):
                return True
            before = before if kind == "whitespace" else (kind, value)
    except TemplateSyntaxError:  # rendering says so
        return False
    return False


def _where(tokenizer: PreTrainedTokenizerBase, template: Template) -> str:
    return "data.chat_template" if template.text else f"the chat template of {tokenizer.name_or_path}"


def _no_template(name: str) -> InputError:
    return InputError(
        "The data are messages, or have a system or tools column, but the tokenizer has no chat template.",
        found="chat_template is not set",
        where=f"data.tokenizer, {name}",
        fix="Set data.chat_template, or data.tokenizer to that of an instruction-tuned model. To leave a column out, "
        'set data.columns = { system = "" }.',
    )


def _endless(found: str, where: str) -> InputError:
    return InputError(
        f"The chat template does not end, for more than {ENDLESS_ROWS} rows.",
        found=found,
        where=where,
        fix="Set data.chat_template to another.",
    )


def _require_variables(tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
    """Raise `InputError` for a variable that the template does not read: it would change nothing."""
    if not template.variables:
        return
    text = str(template.text or tokenizer.chat_template)
    names = re.findall(r"[A-Za-z_]\w*", text)
    for name in template.variables:
        if name in NOT_VARIABLES or name not in names:
            raise InputError(
                f"The chat template has no variable {name!r}.",
                found=f"{name} = {template.variables[name]!r}.{did_you_mean(name, sorted(set(names)))}",
                where="data.chat_template_kwargs",
                fix="Use a variable that the template reads, or leave it out.",
            )
