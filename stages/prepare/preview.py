"""Pairs as the model will see them: of the files that `prepare` wrote, or of a dataset that is not prepared."""

from __future__ import annotations

from scoreonce.pipeline.templates.preview import PairText, decoded
from scoreonce.pipeline.text.rows_to_pairs import PreparedPair, QuarantinedRow, prepare_rows
from scoreonce.pipeline.text.tokenize import TextEncoder
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.common.results import PreviewResult
from scoreonce.stages.config import Data
from scoreonce.stages.data.dataset import Dataset
from scoreonce.stages.data.token_file import TokenFile
from scoreonce.stages.raw.raw_data import limited


def written_pairs(paths: RunPaths, encoder: TextEncoder, count: int) -> tuple[PairText, ...]:
    """The first training pairs, as text."""
    tokens = TokenFile(paths.tokens("train"))
    return tuple(
        decoded(encoder, *(tokens.row(index, side) for side in ("prompt_ids", "chosen_ids", "rejected_ids")))
        for index in range(min(count, len(tokens)))
    )


def first_pairs(dataset: Dataset, data: Data, count: int) -> PreviewResult:
    """The first pairs of a dataset as text, and the unusable rows before the last of them. Writes nothing."""
    raw, recipe = dataset.raw, dataset.recipe
    pairs: list[PreparedPair] = []
    refused: list[QuarantinedRow] = []
    first_row = 0
    for rows in limited(raw.batches(recipe.columns.read), data.limit):
        found, unusable = prepare_rows(rows, first_row, recipe)
        first_row += len(rows)
        pairs += found
        refused += unusable
        if len(pairs) >= count:
            break
    shown = pairs[:count]
    last = shown[-1].row if len(pairs) >= count else first_row
    texts = (
        decoded(recipe.encoder, pair.tokens.prompt_ids, pair.tokens.chosen_ids, pair.tokens.rejected_ids)
        for pair in shown
    )
    return PreviewResult(tuple(texts), tuple(row for row in refused if row.row < last))
