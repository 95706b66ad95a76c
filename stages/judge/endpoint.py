"""A language model behind an OpenAI-compatible endpoint as the judge, asked about two completions at a time.

The key is read from SCOREONCE_JUDGE_API_KEY alone: a run file, which may come from someone else, can name neither the
key nor another variable that holds a secret. It is in no file, message or log.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Literal
from urllib.parse import urlsplit

from scoreonce.pipeline.judging.verdicts import DEFAULT_TEMPLATE, Question, preference_in
from scoreonce.schemas.errors import InputError, first_line
from scoreonce.stages.common.progress import progress
from scoreonce.stages.config import Judge
from scoreonce.stages.judge.answers import Answers, key_of
from scoreonce.stages.judge.questions import NO_VERDICT, Match, Settings
from scoreonce.stages.remote.retries import Retries

KEY = "SCOREONCE_JUDGE_API_KEY"
REFUSED = (401, 403, 404, 429)  # what the server will say of every request; 429, too many, after every try


class Endpoint:
    """The model of judge.endpoint. Raises `InputError` where the package is absent or the template is unusable.

    `failures` counts the questions without an answer, by reason; those of the server are asked again the next time.
    """

    kind: Literal["preferences"] = "preferences"

    def __init__(self, judge: Judge, answers: Answers) -> None:
        assert judge.endpoint is not None
        if judge.model is None:
            raise InputError(
                "The endpoint needs the name of a model.",
                found="judge.endpoint without judge.model",
                where="[judge] of the run file",
                fix="Set judge.model to the name under which the server has it.",
            )
        _require_plain(judge.endpoint)
        self._judge, self._answers = judge, answers
        self._question = _question(judge.template)
        self._openai = _package()
        self._stopping = Event()
        self._retries = Retries(
            judge.tries, sleep=partial(_pause, self._stopping), passing=_passing(self._openai, self._stopping)
        )
        self.failures: Counter[str] = Counter()

    def settings(self) -> Settings:
        """Endpoint, model, question and sampling; never a key."""
        return {
            "kind": "endpoint",
            "endpoint": self._judge.endpoint,
            "model": self._judge.model,
            "template": self._question.template,
            "temperature": self._judge.temperature,
            "max_tokens": self._judge.max_tokens,
        }

    def preferences(self, matches: Sequence[Match]) -> list[float | None]:
        """The verdict of each, from the file of answers where it has it; None where there is none.

        Raises `InputError` where the server cannot be reached or refuses: what was answered stays.
        """
        questions = [self._request(match) for match in matches]
        keys = [key_of(self._judge.endpoint, question) for question in questions]
        missing = {key: question for key, question in zip(keys, questions, strict=True) if key not in self._answers}
        client = self._openai.OpenAI(
            base_url=self._judge.endpoint,
            api_key=os.environ.get(KEY) or "none",  # a server of one's own asks for none
            timeout=self._judge.timeout,
            max_retries=0,  # `Retries` are the ones
        )
        with client, ThreadPoolExecutor(self._judge.concurrency) as pool:
            asked = [pool.submit(self._answer, client, key, question) for key, question in missing.items()]
            try:
                with progress(len(asked), "answers", "judge") as bar:
                    for done in as_completed(asked):
                        if reason := done.result():
                            self.failures[reason] += 1
                        bar.update(1)
            except BaseException:  # Ctrl-C too: no request is waited for, and none tried again
                self._stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                client.close()
                raise
        found = [self._answers.get(key) for key in keys]
        self.failures[NO_VERDICT] += sum(
            key in self._answers and answer is None for key, answer in zip(keys, found, strict=True)
        )
        return found

    def _request(self, match: Match) -> dict[str, Any]:
        text = self._question(match.first.prompt_text, match.first.text, match.second.text)
        return {
            "model": self._judge.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": self._judge.temperature,
            "max_tokens": self._judge.max_tokens,
        }

    def _answer(self, client: Any, key: str, request: dict[str, Any]) -> str | None:
        """Ask, and keep the verdict as soon as it comes: it is paid. Returns why there is no answer, None for one."""
        openai = self._openai
        try:
            answer = self._retries(lambda: _content(client.chat.completions.create(**request)))
        except openai.APITimeoutError:
            return "timed out"
        except openai.APIConnectionError as error:
            found = first_line(error.__cause__ or error)
            raise self._stopped("The judge's endpoint cannot be reached.", found) from None
        except openai.APIStatusError as error:
            if error.status_code in REFUSED:
                raise self._stopped("The judge's endpoint refuses.", f"HTTP {error.status_code}") from None
            return f"HTTP {error.status_code}"
        except (openai.OpenAIError, _MalformedError, ValueError):
            return "malformed response"
        self._answers.add(key, preference_in(answer))
        return None

    def _stopped(self, what: str, found: str) -> InputError:
        return InputError(
            what,
            found=found,
            where=f"judge.endpoint = {self._judge.endpoint!r}, judge.model = {self._judge.model!r}",
            fix=f"Check that the server is up and has this model, and that {KEY} has its key. Then run the same "
            "command again: answers that came are not asked for again.",
        )


class _MalformedError(Exception):
    """A response that is not one of the protocol."""


def _content(response: Any) -> str:
    try:
        content = response.choices[0].message.content
    except (AttributeError, IndexError, TypeError):
        raise _MalformedError from None
    if content is None:  # a model that used all its tokens before it said anything: answered, and paid
        return ""
    if not isinstance(content, str):
        raise _MalformedError
    return content


def _require_plain(endpoint: str) -> None:
    """Raise `InputError` for what is no plain URL: the address is written to the manifest, so no key may be in it."""
    try:
        parts = urlsplit(endpoint)
    except ValueError as error:
        found = str(error)
    else:
        if (
            parts.scheme in ("http", "https")
            and parts.hostname
            and not (parts.username or parts.password or parts.query)
        ):
            return
        found = "a user name, password or query in it" if parts.hostname else endpoint
    raise InputError(
        "The endpoint is not a plain URL.",
        found=found,
        where="judge.endpoint",
        fix=f"Give the base URL, as http://localhost:8000/v1, and the key in {KEY}.",
    )


def _question(template: str | None) -> Question:
    if template is None:
        return Question(DEFAULT_TEMPLATE)
    try:
        return Question(Path(template).read_text("utf-8"), where=f"judge.template, {template}")
    except (OSError, ValueError) as error:
        raise InputError(
            "The template of the judge's question cannot be read.",
            found=str(error),
            where="judge.template",
            fix="Give the path of a text file; a relative path is relative to the working directory.",
        ) from None


def _package() -> Any:
    try:
        import openai
    except ImportError:
        raise InputError(
            "A judge at an endpoint needs the package openai.",
            found="it is not installed",
            where="judge.endpoint",
            fix="Install it: pip install 'scoreonce[judge]'",
        ) from None
    return openai


def _pause(stopping: Event, seconds: float) -> None:
    """Wait between two tries, or until the judgement is stopping."""
    stopping.wait(seconds)


def _passing(openai: Any, stopping: Event) -> Callable[[BaseException], bool]:
    """Which errors may pass: a broken connection, a time-out, a busy or broken server, a response cut short."""
    kinds = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, openai.ConflictError)
    broken = (*kinds, openai.APIResponseValidationError, _MalformedError, ValueError)

    def passing(error: BaseException) -> bool:
        may = isinstance(error, broken) or getattr(error, "status_code", None) == 408
        return may and not stopping.is_set()

    return passing
