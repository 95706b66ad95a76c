"""How texts and conversations become token ids in a run: tokenizer, chat template, and the tokens that end a turn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scoreonce.pipeline.templates.renderer import Template, chat_renderer
from scoreonce.pipeline.templates.turn_end import find_turn_end
from scoreonce.pipeline.text.chat import RenderWithTools
from scoreonce.pipeline.text.tokenize import TextEncoder, text_encoder
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import LocalInput
from scoreonce.stages.common.digests import file_digests
from scoreonce.stages.config import Data, Run
from scoreonce.stages.data.time_limit import time_limit
from scoreonce.stages.models.tokenizers import end_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Of processor time. A template takes less than a millisecond for a usual conversation.
SECONDS_PER_CONVERSATION = 2.0


@dataclass(frozen=True)
class Encoding:
    """The encoder of texts, and the renderer of conversations."""

    encoder: TextEncoder
    render: RenderWithTools


def encoding_of(tokenizer: PreTrainedTokenizerBase, run: Run) -> Encoding:
    """The encoding by a tokenizer, with the template and its variables that the run file sets.

    The end tokens are those of the generation config beside the tokenizer, otherwise of the reference model's if that
    is a folder. Raises `InputError` for a tokenizer or template that cannot be used.
    """
    template = template_of(run.data)
    render = chat_renderer(tokenizer, template, partial(time_limit, SECONDS_PER_CONVERSATION))
    encoder = text_encoder(
        tokenizer,
        turn_end=find_turn_end(tokenizer, render),
        end_ids=end_ids(tokenizer, Path(tokenizer.name_or_path), Path(run.reference.model)),
        template=[template.text, dict(template.variables)] if template != Template() else None,
    )
    return Encoding(encoder, render)


def template_of(data: Data) -> Template:
    """The chat template that the run file sets, read from its file if it names one. Raises `InputError` for none."""
    file = _template_file(data)
    if file is None:
        return Template(data.chat_template, data.chat_template_kwargs)
    try:
        return Template(file.read_text("utf-8"), data.chat_template_kwargs)
    except (OSError, ValueError) as error:
        raise InputError(
            "The chat template cannot be read.",
            found=str(error),
            where=f"data.chat_template = {data.chat_template!r}",
            fix="Give a file with a Jinja template, or the template itself.",
        ) from None


def template_inputs(data: Data) -> dict[str, LocalInput]:
    """The template's file as an input of the pairs, as it is now; nothing where there is none."""
    file = _template_file(data)
    if file is None or not file.is_file():
        return {}
    status, (digest,) = file.stat(), file_digests([file])
    return {str(file): LocalInput(size=status.st_size, mtime_ns=status.st_mtime_ns, sha256=digest)}


def _template_file(data: Data) -> Path | None:
    """The file that data.chat_template names; None where it is a template itself, or not set."""
    given = data.chat_template
    return None if given is None or "{%" in given or "{{" in given else Path(given).expanduser()
