"""Reference sums in a dataset of TRL's trainer, by the completion that they are of.

The dataset is `trainer.train_dataset` after `precompute_ref_log_probs`, saved as a folder, or as Parquet, Arrow or JSON
lines. It has token ids before the collator cuts them, so they are cut here as the collator does (`keep_start`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from scoreonce.pipeline.text.quarantine import RowError
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.identity import completion_id
from scoreonce.stages.raw.raw_files import batches_of, kind_of_file

ROWS_AT_ONCE = 2048
SIDES = ("chosen", "rejected")
_NEEDED = ["prompt_ids", *(name for side in SIDES for name in (f"{side}_ids", f"ref_{side}_logps"))]
_NOT_ROWS = {"dataset_info.json", "dataset_dict.json", "state.json", "manifest.json"}


@dataclass
class TrlValues:
    """Reference sums in nats, by `completion_id`, cut to `max_length` tokens with the prompt."""

    max_length: int | None
    tolerance: float  # nats per token, by which two values of one completion may differ
    logps: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    fills: int = 0  # rows whose prompt leaves no room for a completion, which TRL drops

    def add(self, row: dict[str, Any], where: str) -> None:
        """Take the two values of a row. Raises `InputError` where one is not a log-prob, or not that of before."""
        prompt = row["prompt_ids"]
        self.rows += 1
        room = None if self.max_length is None else self.max_length - len(prompt)
        if room is not None and room <= 0:
            self.fills += 1
            return
        for side in SIDES:
            self._take(prompt, row[f"{side}_ids"][:room], row[f"ref_{side}_logps"], f"ref_{side}_logps, {where}")

    def _take(self, prompt: Sequence[int], completion: Sequence[int], value: float, where: str) -> None:
        if not math.isfinite(value) or value > 0:
            raise InputError(
                "A reference log-prob is not one.",
                found=str(value),
                where=where,
                fix="A sum of log-probs is finite and not above 0. Look at how the file was made.",
            )
        name = completion_id(prompt, completion)
        before = self.logps.setdefault(name, value)
        if abs(before - value) > self.tolerance * max(1, len(completion)):
            raise InputError(
                "One completion has two reference log-probs.",
                found=f"{before} and {value} nats for the same {len(completion):,} tokens after the same prompt",
                where=where,
                fix="The file mixes references, or some rows were cut to another length: --max-length has to be "
                "DPOConfig.max_length of the run that made it.",
            )

    def frame(self) -> pl.DataFrame:
        """`completion_id` and `logps`."""
        return pl.DataFrame(
            {"completion_id": list(self.logps), "logps": list(self.logps.values())},
            schema={"completion_id": pl.String, "logps": pl.Float64},
        )


def files_of(sources: Iterable[Path]) -> list[Path]:
    """The files with rows among files and folders. Raises `InputError` where there are none."""
    found = [file for source in sources for file in _files(source)]
    return list(dict.fromkeys(found))


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    inside = sorted(source.rglob("*")) if source.is_dir() else []
    found = [file for file in inside if file.is_file() and kind_of_file(file) and file.name not in _NOT_ROWS]
    if not found:
        raise InputError(
            "There is no dataset of TRL to import.",
            found=f"no Parquet, Arrow or JSON lines in {source}" if source.is_dir() else f"no file or folder {source}",
            where="scoreonce import-reference RUN.toml FILE_OR_FOLDER",
            fix="Save it with trainer.train_dataset.save_to_disk(FOLDER), or .to_parquet(FILE).",
        )
    return found


def read_values(files: Sequence[Path], values: TrlValues) -> None:
    """Take the values of every row of the files. Raises `InputError` for a row that has not what is needed."""
    for file in files:
        for number, row in enumerate(_rows(file)):
            where = f"row {number:,} of {file}"
            if isinstance(row, RowError):
                raise _unusable(row.detail, where)
            if wrong := [name for name in _NEEDED if not _fits(name, row.get(name))]:
                raise _unusable(f"no {', '.join(wrong)}", where)
            values.add(row, where)


def _fits(name: str, value: object) -> bool:
    if name.endswith("_logps"):
        return isinstance(value, (int, float))
    return isinstance(value, list) and all(isinstance(number, int) for number in value)


def _rows(file: Path) -> Iterator[dict[str, Any] | RowError]:
    if kind_of_file(file) is None:
        raise _unusable(f"a file of the type {file.suffix or '(none)'}", str(file))
    for batch in batches_of(file, None, ROWS_AT_ONCE):
        yield from batch


def _unusable(found: str, where: str) -> InputError:
    return InputError(
        "These are not reference log-probs of TRL.",
        found=found,
        where=where,
        fix="Give the dataset of the trainer itself after precompute_ref_log_probs, trainer.train_dataset: it has "
        f"{', '.join(_NEEDED)}.",
    )
