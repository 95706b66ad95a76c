"""The start of the chat demo (`make demo-chat`): a real model, and questions that it answers itself.

    scoreonce demo chat configs/demo_chat_pairs.toml

Writes the model to `reference.model`, the questions to `sample.prompts`, and beside them unseen.jsonl, questions to
measure policies with. From there on the ordinary stages run; the rule that labels is `pipeline.demo.chat.score`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scoreonce.pipeline.demo.chat import questions
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common import files
from scoreonce.stages.config import Run
from scoreonce.stages.demo import chat_model

logger = logging.getLogger(__name__)

UNSEEN = "unseen.jsonl"


@dataclass(frozen=True)
class ChatSize:
    """Questions of the chat demo; with the defaults the whole takes half an hour on two cores."""

    answered: int = 160
    unseen: int = 80


def chat(run: Run, size: ChatSize = ChatSize()) -> None:
    """Write the model, if it is not there, and the questions.

    Raises `InputError` where the model's package is not installed, or where other prompts would be replaced.
    """
    answered, unseen = questions(run.data.seed, answered=size.answered, unseen=size.unseen)
    path, model = Path(run.sample.prompts), Path(run.reference.model)
    if path.exists() and _lines(answered)[0] != path.read_text(encoding="utf-8").partition("\n")[0]:
        raise InputError(
            "The demo would replace prompts that it has not written.",
            found=f"{path}, which does not begin with the demo's first question",
            where="sample.prompts of the run file",
            fix="Use configs/demo_chat_pairs.toml, or delete the file.",
        )
    if not (model / "config.json").exists():
        parameters = chat_model.write(model)
        logger.info(f"SmolLM2-135M-Instruct, {parameters:,} parameters, in {model}")
    for target, asked in ((path, answered), (path.with_name(UNSEEN), unseen)):
        with files.atomic(target) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in _lines(asked)), encoding="utf-8")
        logger.info(f"{len(asked):,} questions in {target}")


def _lines(asked: Sequence[str]) -> list[str]:
    return [json.dumps({"prompt": [{"role": "user", "content": question}]}) for question in asked]
