"""Samples as the answer files of AlpacaEval and Arena-Hard, whose own judges then read them.

scoreonce judge configs/x.toml --label dpo --format alpaca-eval --to answers.json
scoreonce judge configs/x.toml --label dpo --format arena-hard --questions question.jsonl --to dpo.jsonl
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, Literal

import polars as pl

from scoreonce.pipeline.judging.answer_files import alpaca_eval, arena_hard, instruction_of
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.names import require_name
from scoreonce.stages.common.files import atomic
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.data.samples import read_samples
from scoreonce.stages.outputs.at_address import at_address

logger = logging.getLogger(__name__)

Format = Literal["alpaca-eval", "arena-hard"]


@at_address("samples/*")
def export_answers(
    run: Run, answer_format: Format, to: Path | None, *, label: str | None = None, questions: Path | None = None
) -> int:
    """Write the first sample of each prompt to a file, and return how many.

    Prompts that are more than one user message are left out, and counted; for Arena-Hard those that are no question of
    its file too. Without `questions` the id of a question is the prompt_id. Raises `InputError` where there are no
    samples or none is left, and where the file of questions cannot be read.
    """
    paths = RunPaths.of(run)
    own = require_name(label or paths.label, "--label")
    if to is None:
        raise InputError(
            "There is no file to write the answers to.",
            found=f"--format {answer_format} without --to",
            where="--to",
            fix="Name it: --to answers.json",
        )
    first = read_samples(paths, own).filter(pl.col("sample") == 0)
    rows = first.select("prompt_id", "prompt", "conversation", "completion", "completion_id", "sample").to_dicts()
    if answer_format == "alpaca-eval":
        answers: list[dict[str, Any]] = [*alpaca_eval(rows, own, Path(run.data.source).name)]
        text = json.dumps(answers, indent=2, ensure_ascii=False) + "\n"
    else:
        prompts = {instruction_of(row): row["prompt_id"] for row in rows}
        ids = {prompt: name for prompt, name in prompts.items() if prompt is not None}
        answers = arena_hard(rows, own, ids if questions is None else _questions(questions), time.time())
        text = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
    if not answers:
        raise InputError(
            "None of the samples can be written in this format.",
            found=f"{len(rows):,} prompts, none of them one user message"
            + ("" if questions is None else f" that is a question of {questions}"),
            where=f"--format {answer_format}",
            fix="Sample for the prompts of the benchmark: each is one user message, or plain text.",
        )
    with atomic(to) as temporary:
        temporary.write_text(text, encoding="utf-8")
    left = f", {len(rows) - len(answers):,} prompts left out" if len(answers) < len(rows) else ""
    logger.info("%s: %s answers of %s%s", to, f"{len(answers):,}", own, left)
    return len(answers)


def _questions(path: Path) -> dict[str, str]:
    """The question_id of each question of Arena-Hard's file, by its text."""
    try:
        found = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
        return {question["turns"][0]["content"]: str(question["question_id"]) for question in found}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            "The file of questions cannot be read.",
            found=f"{type(error).__name__}: {error}",
            where=f"--questions {path}",
            fix="Give question.jsonl of Arena-Hard v0.1, with question_id and turns in each line.",
        ) from None
