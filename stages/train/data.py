"""What a training run reads: the columns that its method names, and the token ids by memory map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from scoreonce.pipeline.batches.prompt_rows import PromptRow
from scoreonce.pipeline.methods.pieces.derived import PRESENCE
from scoreonce.pipeline.training.policy_columns import PolicyColumns
from scoreonce.schemas import columns as c
from scoreonce.schemas.errors import InputError
from scoreonce.schemas.tables import Pair, ReferencePair
from scoreonce.stages.common import files
from scoreonce.stages.common.frames import frame_batches
from scoreonce.stages.common.paths import RunPaths, Split
from scoreonce.stages.data.mismatched import mismatched_completions
from scoreonce.stages.data.prepared_pairs import read_pairs
from scoreonce.stages.data.reference_scores import read_reference
from scoreonce.stages.data.token_file import TokenColumn, TokenFile, largest_token
from scoreonce.stages.store.index import Index, packed_column
from scoreonce.stages.store.store import ReferenceStore
from scoreonce.stages.train import pair_filter

SIDE_TOKENS: dict[str, TokenColumn] = {"chosen": "chosen_ids", "rejected": "rejected_ids"}


@dataclass(frozen=True)
class Mismatches:
    """Another prompt's completion for each pair (KTO): its row and column of the token file, and its tokens."""

    donors: npt.NDArray[np.uint32]  # (pairs,)
    chosen: npt.NDArray[np.bool_]  # (pairs,) whether it is the donor's chosen completion; its rejected one otherwise
    lengths: npt.NDArray[np.int32]  # (pairs,)

    def at(self, places: npt.NDArray[np.int64]) -> Mismatches:
        """Those of some pairs."""
        return Mismatches(self.donors[places], self.chosen[places], self.lengths[places])

    def tokens(self, pair: int, file: TokenFile) -> npt.NDArray[np.int32]:
        """The token ids of the one of a pair."""
        column: TokenColumn = "chosen_ids" if self.chosen[pair] else "rejected_ids"
        return file.row(int(self.donors[pair]), column)[: self.lengths[pair]]


@dataclass(frozen=True)
class PairIds(Sequence[str]):
    """The ids of the training pairs, from the token file as they are asked for."""

    tokens: TokenFile
    places: npt.NDArray[np.int64] | None  # of each pair in the token file; None: all pairs, in its order

    def __len__(self) -> int:
        return len(self.tokens if self.places is None else self.places)

    def __getitem__(self, pair: Any) -> Any:
        return self.tokens.pair_id(int(pair if self.places is None else self.places[pair]))

    def __iter__(self) -> Iterator[str]:
        return self.tokens.pair_ids(self.places)


@dataclass(frozen=True)
class TrainingData:
    """Training pairs in the order of the prepared file: the method's columns in memory, all else on disk.

    In memory are 8 bytes a pair for each column and for `row_tokens`.
    """

    columns: dict[str, npt.NDArray[np.float64]]  # each (pairs,)
    tokens: TokenFile
    sides: tuple[TokenColumn, ...]  # the completions of the pair that the method reads
    row_tokens: npt.NDArray[np.int64]  # (pairs,) positions of each prompt row, the last one of each completion included
    longest_sequence: int  # tokens of the longest prompt and completion
    largest_token: int
    mismatches: Mismatches | None = None
    places: npt.NDArray[np.int64] | None = None  # of each pair in the token file; None: all pairs, in its order
    longest_beside: int = 0  # tokens of the longest row of other pairs that the model will be given

    def __len__(self) -> int:
        return len(self.row_tokens)

    @property
    def pair_ids(self) -> Sequence[str]:
        """`pair_id` of each pair."""
        return PairIds(self.tokens, self.places)

    @property
    def longest_row(self) -> int:
        """Tokens of the longest prompt row."""
        return max(int(self.row_tokens.max()), self.longest_beside)

    def and_given(self, rows: Sequence[PromptRow]) -> TrainingData:
        """The same pairs, for a model that is given these rows too: sizes are the largest of both."""
        sequences = (len(row.prompt) + len(completion) for row in rows for completion in row.completions)
        ids = (each for row in rows for each in (row.prompt, *row.completions) if len(each))
        return replace(
            self,
            longest_beside=max(row.tokens for row in rows),
            longest_sequence=max(self.longest_sequence, *sequences),
            largest_token=max(self.largest_token, *(int(each.max()) for each in ids)),
        )

    def row(self, pair: int) -> PromptRow:
        """A pair's prompt with the completions that the method reads, chosen first, the mismatched one last.

        A side that unpaired data do not have is an empty completion.
        """
        place = self.place(pair)
        completions = [self.tokens.row(place, side) for side in self.sides]
        if self.mismatches is not None:
            completions.append(self.mismatches.tokens(pair, self.tokens))
        return PromptRow(self.tokens.row(place, "prompt_ids"), tuple(completions))

    def place(self, pair: int) -> int:
        """The pair's row in the token file."""
        return pair if self.places is None else int(self.places[pair])


def load_training_data(
    paths: RunPaths,
    reads: frozenset[str],
    where: str | None = None,
    drop: Sequence[str] = (),
    *,
    share: float = 1.0,
    seed: int = 0,
    takes_unpaired: bool = False,
    split: Split = "train",
) -> TrainingData:
    """The pairs of a split with every cached column in `reads`: all, or those training pairs for which the SQL
    condition `where` holds and that no finding in `drop` concerns; of those a `share`, drawn by `seed`.

    Of unpaired data, a method that reads the chosen completion alone is given the good ones; for one that
    `takes_unpaired`, the reference's log-prob of a side that is not there is 0.

    Raises `InputError` where `prepare` or `score` has not run, a file is damaged, or a column that the method reads
    has no value for some pair.
    """
    _require_trainable(reads)
    completions = PolicyColumns.of(reads).completions
    cached = sorted(name for name in reads if not name.startswith("policy_") and name != c.EXPONENTIAL_DRAWS.name)
    table, mismatched = _pairs(paths, split, cached), "mismatched" in completions
    if any(name.startswith("ref_") for name in cached):
        table = _with_reference(table, paths, split, cached, mismatched)
    for other in sorted({other for name in cached for other in c.COLUMNS[name].others}):
        table = _with_other(table, paths, split, other)
    if any(name.endswith("_prefix_logps") for name in cached):
        table = _with_prefixes(table, paths, split)
    unknown = [name for name in cached if name not in table.columns]
    if unknown:
        raise InputError(
            "The method reads columns that nothing provides.",
            found=", ".join(unknown),
            where=str(paths.reference(split)),
            fix=f"Available: {', '.join(table.columns)}.",
        )
    mismatches = _mismatches(table, paths, split) if mismatched else None
    tokens = TokenFile(paths.tokens(split))
    if len(tokens) != len(table):
        raise InputError(
            "Pairs and token ids do not belong together.",
            found=f"{len(table):,} pairs, {len(tokens):,} rows of token ids",
            where=str(paths.tokens(split)),
            fix="Run `scoreonce prepare` again.",
        )
    good = table["has_chosen"] if completions == ("chosen",) else None
    places = pair_filter.selected(paths, tokens, where, drop, good=good, share=share, seed=seed)
    if places is not None:
        table, mismatches = table[places], mismatches and mismatches.at(places)
    if takes_unpaired and not (table["has_chosen"].all() and table["has_rejected"].all()):
        table, cached = _with_absent_sides(table), [*cached, *sorted(PRESENCE)]
    absent = {name: table[name].null_count() for name in cached}
    if not takes_unpaired:
        sides_read = [side for side in completions if side in SIDE_TOKENS]
        absent = {f"{side}_id": int((~table[f"has_{side}"]).sum()) for side in sides_read} | absent
    for name, missing in absent.items():
        if missing:
            raise InputError(
                f"The method needs {name}, and the data lacks it.",
                found=f"no value for {missing:,} of {len(table):,} pairs",
                where=str(paths.pairs(split)),
                fix=_how_to_get(name),
            )
    for name in cached:
        values = table[name].cast(pl.Float64)
        if not values.is_finite().all():
            raise InputError(
                f"{name} is not a finite number everywhere.",
                found=f"{(~values.is_finite()).sum():,} of {len(table):,} pairs are NaN or infinite",
                where=str(paths.reference(split) if name.startswith("ref_") else paths.pairs(split)),
                fix="Correct them and run the stage that made the file again, or leave these pairs out: train.where.",
            )
    sides = tuple(SIDE_TOKENS[side] for side in completions if side in SIDE_TOKENS)
    prompt, lengths = table["prompt_len"], [table[side.replace("_ids", "_len")] for side in sides]
    if mismatches is not None:
        lengths.append(pl.Series(mismatches.lengths))
    return TrainingData(
        columns={name: table[name].cast(pl.Float64).to_numpy() for name in cached},
        tokens=tokens,
        sides=sides,
        row_tokens=sum(lengths, start=prompt.cast(pl.Int64)).to_numpy(),
        longest_sequence=max(_largest(prompt + side) for side in lengths),
        largest_token=largest_token(paths.tokens(split), ["prompt_ids", "chosen_ids", *sides]),
        mismatches=mismatches,
        places=places,
    )


def _with_absent_sides(table: pl.DataFrame) -> pl.DataFrame:
    """The pairs with 0 as the reference's log-prob of a completion that is not there, the sum over no token."""
    return table.with_columns(
        pl.when(~pl.col(f"has_{side}")).then(0.0).otherwise(f"ref_{side}_logps").alias(f"ref_{side}_logps")
        for side in SIDE_TOKENS
        if f"ref_{side}_logps" in table.columns
    )


def _require_trainable(reads: frozenset[str]) -> None:
    beyond = sorted(name for name in reads - PolicyColumns.of(reads).names if name.startswith("policy_"))
    if beyond:
        raise InputError(
            "The method needs more of the policy than training computes.",
            found=", ".join(beyond),
            where="train.method",
            fix="Compute these columns yourself and call scoreonce.pipeline.methods.apply, or choose another.",
        )


def _largest(column: pl.Series) -> int:
    return int(column.to_numpy().max())


def _how_to_get(name: str) -> str:
    if name.endswith("_score"):
        return f'Name the dataset\'s score columns: data.columns.{name} = "...", and run `scoreonce prepare` again.'
    if name.endswith("_preference"):
        return (
            f'Name the dataset\'s column, data.columns.{name} = "...", or make it of scores with '
            "data.preference_from_scores, and run `scoreonce prepare` again."
        )
    if name == c.REF_KL_LOGPS.name:
        return "Set score.mismatched = true and run `scoreonce score`: it scores another prompt's completion with each."
    return (
        "Use data with both a chosen and a rejected completion, or a method for single completions: kto or bco where "
        "they are good or bad, else sft."
    )


def _pairs(paths: RunPaths, split: Split, cached: Sequence[str]) -> pl.DataFrame:
    """Lengths, and whether each side is there, as columns; of the others those in `cached`. No text, and no ids."""
    read_pairs(paths)
    own = [name for name in cached if name in Pair.columns()]
    lengths = ["prompt_len", *(f"{side}_len" for side in SIDE_TOKENS)]
    ids = [f"{side}_id" for side in SIDE_TOKENS]
    there = [pl.col(name).is_not_null().alias(f"has_{name.removesuffix('_id')}") for name in ids]
    kept = list(dict.fromkeys([*lengths, *own]))
    with _damage_named(paths.pairs(split), "prepare"):
        batches = frame_batches(paths.pairs(split), list(dict.fromkeys([*kept, *ids])))
        table = pl.concat(batch.select(*kept, *there) for batch in batches)
    if table.is_empty():
        raise InputError(
            "There are no training pairs." if split == "train" else "There are no held-out pairs.",
            found="0 rows",
            where=str(paths.pairs(split)),
            fix="Look at the quarantine file beside it, or lower data.test_share.",
        )
    return table


def _with_reference(
    table: pl.DataFrame, paths: RunPaths, split: Split, cached: Sequence[str], mismatched: bool
) -> pl.DataFrame:
    """The pairs with the reference columns in `cached`, and kl_id where `mismatched` completions are read."""
    read_reference(paths)
    sums = [f"ref_{side}_logps" for side in SIDE_TOKENS]
    wanted = [name for name in cached if name in ReferencePair.columns() and name not in table.columns]
    wanted = list(dict.fromkeys([*sums, *wanted, *([c.KL_ID.name] if mismatched else [])]))
    with _damage_named(paths.reference(split), "score"):
        scores = pl.concat(frame_batches(paths.reference(split), wanted))
        places = _reference_rows(paths, split)
    # A row that is null throughout where a pair has no scores.
    joined = table.hstack(scores if places is None else scores[places])
    unscored = joined.filter(pl.all_horizontal(pl.col(name).is_null() for name in sums)).height
    if unscored:
        raise InputError(
            "Some pairs have no reference scores.",
            found=f"{unscored:,} of {len(table):,} pairs",
            where=str(paths.reference(split)),
            fix="Run `scoreonce score` again: it scores only what is missing.",
        )
    return joined


def _with_other(table: pl.DataFrame, paths: RunPaths, split: Split, other: str) -> pl.DataFrame:
    """The pairs with the sums of a further scored model, under its name."""
    sums = [f"ref_{side}_logps" for side in SIDE_TOKENS]
    scored = _with_reference(table.select("prompt_len"), paths.of_other(other), split, sums, False)
    return table.hstack([scored[name].alias(f"{other}{name.removeprefix('ref')}") for name in sums])


def _reference_rows(paths: RunPaths, split: Split) -> pl.Series | None:
    """The row of the reference table for each pair, null where there is none; None where they are the same rows.

    They are, unless a pair is in the data twice: the table has each pair once, in the order of the pairs.
    """
    files = paths.pairs(split), paths.reference(split)
    alike = zip_longest(*(frame_batches(path, ["pair_id"]) for path in files))
    if all(pairs is not None and scored is not None and pairs.equals(scored) for pairs, scored in alike):
        return None
    pairs, scored = (
        np.concatenate([packed_column(batch["pair_id"]) for batch in frame_batches(path, ["pair_id"])])
        for path in files
    )
    found, _, row = Index.of(scored).locate(pairs)
    return pl.select(pl.when(pl.Series(found)).then(pl.Series(row))).to_series()


def _mismatches(table: pl.DataFrame, paths: RunPaths, split: Split) -> Mismatches:
    """The mismatched completions of `table`'s pairs. Raises `InputError` where others were scored."""
    met, scored = mismatched_completions(paths, split), table.get_column(c.KL_ID.name, default=None)
    # Where none were scored, that is what the user is told, with the column that is missing.
    if scored is not None and scored.is_not_null().any() and not scored.equals(met[c.KL_ID.name]):
        raise InputError(
            "The mismatched completions that were scored are not those of the prepared pairs.",
            found="other pairs, or the same in another order",
            where=str(paths.reference(split)),
            fix="Run `scoreonce score` again: it scores only what is missing.",
        )
    return Mismatches(met["donor"].to_numpy(), (met["column"] == "chosen_ids").to_numpy(), met["kl_len"].to_numpy())


def _with_prefixes(table: pl.DataFrame, paths: RunPaths, split: Split) -> pl.DataFrame:
    """Reference log-probs of the first min(chosen_len, rejected_len) tokens of both sides, from the store."""
    store = ReferenceStore.of_key(paths, files.read_json(paths.reference_manifest)["store_key"])
    common = table.select(pl.min_horizontal("chosen_len", "rejected_len").cast(pl.Int64)).to_series().to_numpy()
    for side in SIDE_TOKENS:
        there = table[f"has_{side}"].to_numpy()
        batches = frame_batches(paths.pairs(split), [f"{side}_id"])
        ids = np.concatenate([packed_column(batch.to_series().drop_nulls()) for batch in batches])
        sums = np.full(len(table), np.nan)
        sums[there] = store.prefix_sums(ids, common[there])
        table = table.with_columns(pl.Series(f"ref_{side}_prefix_logps", sums).fill_nan(None))
    return table


@contextmanager
def _damage_named(path: Path, stage: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:  # pyarrow's I/O and checksum errors are OSErrors too
        raise InputError(
            "A file is damaged or missing.",
            found=str(error).splitlines()[0],
            where=str(path),
            fix=f"Run `scoreonce {stage}` again: it rewrites the file.",
        ) from None
