"""What an audit reads besides the pairs: files of evaluation prompts, the tokenizer's control tokens, raw columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from scoreonce.pipeline.audit.measures.contamination import evaluation_grams
from scoreonce.pipeline.audit.measures.tokens import SpecialIds
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.manifests import PairsManifest, SpecialTokens
from scoreonce.stages.audit.annotations import raw_annotations
from scoreonce.stages.audit.measures import Inputs
from scoreonce.stages.common.digests import file_digests
from scoreonce.stages.config import Run
from scoreonce.stages.raw.raw_data import open_data

# Where published evaluation sets keep what is asked; without any of these, every text of a row counts.
PROMPT_COLUMNS = ("prompt", "question", "instruction", "problem", "query", "input", "text", "goal", "turns", "messages")


def gather(run: Run, manifest: PairsManifest) -> Inputs:
    """Everything but the pairs; `manifest` is that of `prepare`.

    Raises `InputError` where a file that the run file names cannot be read.
    """
    texts = evaluation_prompts(run.audit.contamination)
    return Inputs(
        run.audit,
        _special_ids(run, manifest),
        evaluation_grams(texts, run.audit.ngram) if texts else None,
        dict(zip(run.audit.contamination, file_digests(_paths(run.audit.contamination)), strict=True)),
        raw_annotations(run.data, run.audit, manifest.inputs),
    )


def evaluation_prompts(names: list[str]) -> dict[str, pl.Series]:
    """The prompts in each file, by its name. Raises `InputError` where one is absent, not UTF-8, or has no text."""
    paths = _paths(names)
    return {_name(path, paths): _prompts(path) for path in paths}


def _paths(names: list[str]) -> list[Path]:
    return [Path(name).expanduser() for name in names]


def _name(path: Path, paths: list[Path]) -> str:
    return str(path) if sum(other.name == path.name for other in paths) > 1 else path.name


def _special_ids(run: Run, manifest: PairsManifest) -> SpecialIds | None:
    """The control tokens that `prepare` recorded; None where neither they nor a folder with the tokenizer is at hand.

    An audit downloads nothing and needs no model.
    """
    found = manifest.tokenizer.special or _read_special(run.data.tokenizer or run.reference.model)
    return None if found is None else SpecialIds(found.bos, tuple(found.ends), np.array(found.every, np.int64))


def _read_special(name: str) -> SpecialTokens | None:
    if not (Path(name) / "tokenizer_config.json").is_file():
        return None
    from scoreonce.stages.models.tokenizers import load_tokenizer, special_tokens  # torch

    try:
        return special_tokens(load_tokenizer(name))
    except InputError:
        return None


def _prompts(path: Path) -> pl.Series:
    if not path.is_file():
        raise InputError(
            "There is no such file of evaluation prompts.",
            found=f"no file {path}",
            where="audit.contamination, or --contamination",
            fix="Name text files with a prompt a line, or .jsonl[.gz], .json, .parquet and .arrow files.",
        )
    try:
        found = list(path.read_text("utf-8").splitlines()) if path.suffix == ".txt" else list(_texts_of(path))
    except UnicodeDecodeError as error:
        raise InputError(
            "A file of evaluation prompts is not UTF-8.", found=str(error), where=str(path), fix="Convert it to UTF-8."
        ) from None
    found = [text for text in found if text.strip()]
    if not found:
        raise InputError(
            "A file of evaluation prompts has no text.",
            found="no row with a text",
            where=str(path),
            fix=f"Rows need a text, best under one of: {', '.join(PROMPT_COLUMNS)}.",
        )
    return pl.Series("text", found, dtype=pl.String)


def _texts_of(path: Path) -> Iterator[str]:
    for batch in open_data(str(path), subset=None, split="train").batches(None):
        for row in batch:
            if isinstance(row, Mapping):
                asked = [row[name] for name in PROMPT_COLUMNS if row.get(name) is not None]
                yield from _strings(asked or list(row.values()))


def _strings(value: Any) -> Iterator[str]:
    """Every text in a value, such as the turns of a conversation."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings(value["content"] if "content" in value else list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
