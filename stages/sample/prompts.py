"""The prompts that are answered: those of the prepared pairs, or of a file."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.pipeline.text.chat import (
    Message,
    RenderWithTools,
    Tools,
    conversation_of,
    messages_of,
    prompt_messages,
    render_prompt,
)
from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.pipeline.text.rows_to_pairs import PLAIN, read_raw
from scoreonce.pipeline.text.tokenize import encode_prompts
from scoreonce.schemas import identity
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.files import sha256
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import RunPaths, Split
from scoreonce.stages.config import Run
from scoreonce.stages.data.dataset import dataset_of, open_test, open_train
from scoreonce.stages.data.encoding import Encoding
from scoreonce.stages.data.prepared_pairs import require_pairs
from scoreonce.stages.data.token_file import TokenFile
from scoreonce.stages.raw.raw_data import limited
from scoreonce.stages.raw.raw_files import KINDS, batches_of, kind_of_file

logger = logging.getLogger(__name__)

SPLIT_OF: dict[str, Split] = {"heldout": "test", "train": "train"}


@dataclass(frozen=True)
class Prompt:
    """One prompt as the model reads it; `messages` where a chat template wrote it."""

    prompt_id: str
    text: str
    ids: npt.NDArray[np.int32]
    messages: list[Message] | None = None


@dataclass(frozen=True)
class Prompts:
    """Distinct prompts in order, and where they are from."""

    source: str
    each: list[Prompt]
    pairs_manifest_sha256: str | None

    @property
    def digest(self) -> str:
        """SHA-256 of their ids, one a line."""
        return hashlib.sha256("\n".join(prompt.prompt_id for prompt in self.each).encode()).hexdigest()


def read_prompts(run: Run, encoding: Encoding) -> Prompts:
    """The prompts that [sample] of the run file names. Raises `InputError` where there are none, or one is unusable."""
    source = run.sample.prompts
    prompts = _of_pairs(run, SPLIT_OF[source], encoding) if source in SPLIT_OF else _of_file(run, encoding)
    if not prompts.each:
        raise InputError(
            "There are no prompts to answer.",
            found=f"0 prompts in {source}",
            where="sample.prompts, or --prompts",
            fix="Set data.test_share above 0 and run `scoreonce prepare` again, or name other prompts: train, or a "
            "file.",
        )
    return prompts


def _of_pairs(run: Run, split: Split, encoding: Encoding) -> Prompts:
    require_pairs(run)
    paths = RunPaths.of(run)
    pairs = read_frame(paths.pairs(split), ["prompt_id", "prompt"]).with_row_index("pair")
    first = pairs.unique("prompt_id", keep="first", maintain_order=True).head(run.sample.limit or pairs.height)
    tokens = TokenFile(paths.tokens(split))
    messages = _conversations(run, split, encoding, set(first["prompt"]))
    each = [
        Prompt(prompt_id, text, np.array(tokens.row(pair, "prompt_ids"), np.int32), messages.get(text))
        for pair, prompt_id, text in first.iter_rows()
    ]
    return Prompts(run.sample.prompts, each, sha256(paths.pairs_manifest))


def _conversations(run: Run, split: Split, encoding: Encoding, wanted: set[str]) -> dict[str, list[Message]]:
    """The messages of which a chat template made each prompt, from the raw data; of plain text there are none.

    Prepared pairs keep only the text. Without the raw data, which a run needs no more once it is prepared, they stay
    unknown.
    """
    found: dict[str, list[Message]] = {}

    def recording(messages: list[Message], add_generation_prompt: bool, tools: Tools | None = None) -> str:
        text = encoding.render(messages, add_generation_prompt, tools)
        if add_generation_prompt and text in wanted:
            found.setdefault(text, messages)
        return text

    try:
        raw = (open_test(run.data) if split == "test" else None) or open_train(run.data)
        recipe = dataset_of(raw, run.data, replace(encoding, render=recording)).recipe
    except InputError as error:
        logger.warning(f"samples keep no messages of their prompts, only the text: {error.what} {error.found}")
        return {}
    if recipe.format in PLAIN:
        return {}
    for batch in limited(raw.batches(recipe.columns.read), run.data.limit):
        for row in batch:
            read_raw(row, recipe)
        if len(found) == len(wanted):
            break
    return found


def _of_file(run: Run, encoding: Encoding) -> Prompts:
    path = Path(run.sample.prompts).expanduser()
    texts = list(_texts(path, encoding.render, run.sample.limit))
    rendered = [(text, messages is not None) for text, messages in texts]
    ids = encode_prompts(encoding.encoder, rendered, run.data.max_prompt_length)
    prompts: dict[str, Prompt] = {}
    for (text, messages), each in zip(texts, ids, strict=True):
        prompt_id = identity.prompt_id(each)
        prompts.setdefault(prompt_id, Prompt(prompt_id, text, each, messages))
    if empty := [prompt.text for prompt in prompts.values() if not len(prompt.ids)]:
        raise _unusable(path, f"a prompt without a token: {empty[0]!r}")
    return Prompts(str(path), list(prompts.values()), None)


def _texts(path: Path, render: RenderWithTools, limit: int | None) -> Iterator[tuple[str, list[Message] | None]]:
    if not path.is_file():
        raise InputError(
            "There is no such file of prompts.",
            found=f"no file {path}",
            where="sample.prompts, or --prompts",
            fix="Give heldout or train, for the prompts of the prepared pairs, or a .jsonl or .txt file.",
        )
    for number, row in enumerate(_rows(path), 1):
        if limit is not None and number > limit:
            return
        try:
            yield _text(row, render)
        except RowError as problem:
            raise _unusable(path, f"{problem.detail} (prompt {number})") from None


def _rows(path: Path) -> Iterator[dict[str, Any] | RowError]:
    if path.suffix == ".txt":
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise _unusable(path, str(error)) from None
        yield from ({"prompt": line} for line in lines if line.strip())
    elif kind_of_file(path) is not None:
        for batch in batches_of(path, None, 1024):
            yield from batch
    else:
        raise _unusable(path, f"a file of another type than {', '.join(['.txt', *KINDS])}")


def _text(row: dict[str, Any] | RowError, render: RenderWithTools) -> tuple[str, list[Message] | None]:
    """A row's prompt as text, and its messages if it is a conversation. An answer at the end is left out."""
    if isinstance(row, RowError):
        raise row
    prompt = row.get("prompt") or row.get("messages")
    if isinstance(prompt, str):
        prompt = conversation_of(prompt) or prompt
    if isinstance(prompt, str) and prompt.strip():
        return prompt, None
    if not isinstance(prompt, list | dict) or not prompt:
        raise RowError("missing_value", f"neither text nor messages under 'prompt' or 'messages'; keys {_listed(row)}")
    messages = prompt_messages(prompt) if "prompt" in row else messages_of(prompt, "messages")
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    return render_prompt(messages, render), messages


def _listed(names: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(names) or "(none)"


def _unusable(path: Path, found: str) -> InputError:
    return InputError(
        "A file of prompts cannot be used.",
        found=found,
        where=str(path),
        fix='Give .jsonl with {"prompt": "…"} or {"prompt": [{"role": "user", "content": "…"}]} in each line, or .txt '
        "with a prompt in each line.",
    )


def columns_of(prompts: Sequence[Prompt]) -> pl.DataFrame:
    """prompt_id, prompt, conversation and prompt_ids of `Sample`, a row per prompt."""
    return pl.DataFrame(
        {
            "prompt_id": [prompt.prompt_id for prompt in prompts],
            "prompt": [prompt.text for prompt in prompts],
            "conversation": [
                None if prompt.messages is None else json.dumps(prompt.messages, ensure_ascii=False)
                for prompt in prompts
            ],
            "prompt_ids": [prompt.ids.tolist() for prompt in prompts],
        },
        schema={
            "prompt_id": pl.String,
            "prompt": pl.String,
            "conversation": pl.String,
            "prompt_ids": pl.List(pl.Int32),
        },
    )
