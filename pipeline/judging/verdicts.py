"""The question to a language model that judges, and what its answer says.

The question shows the prompt and two completions, A and B, as AlpacaEval's and MT-Bench's do, in words of its own, and
asks for [[A]], [[B]] or, for a tie, [[C]].
"""

from __future__ import annotations

import json
import re
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from scoreonce.schemas.errors import InputError

DEFAULT_TEMPLATE = """\
Compare two responses to the same prompt. Judge how helpful, correct and relevant each is to what the prompt asks for. \
Neither the order in which they are shown nor their length is a reason to prefer one.

<prompt>
{{ prompt }}
</prompt>

<response_a>
{{ first }}
</response_a>

<response_b>
{{ second }}
</response_b>

Which response is better? End with exactly one of these verdicts: [[A]] if response A is better, [[B]] if response B \
is better, [[C]] if they are equally good.
"""
_VERDICT = re.compile(r"\[\[([ABC])\]\]")
_PREFERENCE = {"A": 1.0, "B": 0.0, "C": 0.5}


class Question:
    """The question as a template. Raises `InputError` where it is no template, or does not show both completions."""

    def __init__(self, template: str = DEFAULT_TEMPLATE, where: str = "judge.template") -> None:
        self.template, self._where = template, where
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        try:
            self._template = environment.from_string(template)
        except TemplateError as error:
            raise self._unusable(str(error)) from None
        shown = self("<prompt>", "<first>", "<second>")
        if absent := [name for name in ("prompt", "first", "second") if f"<{name}>" not in shown]:
            raise self._unusable(f"it does not show {', '.join(absent)}")

    def __call__(self, prompt: str, first: str, second: str) -> str:
        """The question about two completions. Raises `InputError` where the template fails."""
        try:
            return self._template.render(prompt=prompt, first=first, second=second)
        except TemplateError as error:
            raise self._unusable(str(error)) from None

    def _unusable(self, found: str) -> InputError:
        return InputError(
            "The template of the judge's question cannot be used.",
            found=found,
            where=self._where,
            fix="Write a Jinja template with {{ prompt }}, {{ first }} and {{ second }}: docs/judge.md has one.",
        )


def preference_in(answer: str) -> float | None:
    """1 where the answer says that the first is better, 0 the second, 0.5 neither; None where it says no one thing.

    The verdict is the [[A]], [[B]] or [[C]] in it, or the letter that is all of it. An answer with two different
    verdicts has none: nothing is guessed.
    """
    found = set(_VERDICT.findall(answer)) or {answer.strip().strip("[]().").upper()}
    return _PREFERENCE.get(found.pop()) if len(found) == 1 else None


def prompt_text(prompt: str, conversation: str | None) -> str:
    """What is shown as the prompt: its text, the one user message, or all messages with their roles.

    `conversation` is the JSON of its messages, None where the prompt is plain text.
    """
    if conversation is None:
        return prompt
    messages: list[dict[str, Any]] = json.loads(conversation)
    if len(messages) == 1 and messages[0]["role"] == "user":
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
