"""Which pairs are trained on: those of `train.drop` and `train.where`, and the good completions of unpaired data; of
these the share `train.share`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from scoreonce.pipeline.audit.checks.pair_filter import condition, kept, remaining
from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.frames import read_frame
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.config import Run
from scoreonce.stages.data.pair_tables import current_audit, joined_pairs, read_audit, with_others
from scoreonce.stages.data.token_file import TokenFile

logger = logging.getLogger(__name__)

# Of weight times number, good to bad: Ethayarajh et al. 2024 (KTO), section 4.2.
BALANCE = (1.0, 4 / 3)


def selected(
    paths: RunPaths,
    tokens: TokenFile,
    where: str | None = None,
    drop: Sequence[str] = (),
    *,
    good: pl.Series | None = None,
    share: float = 1.0,
    seed: int = 0,
) -> npt.NDArray[np.int64] | None:
    """The rows of the pairs to train on, in order; None for all. `tokens`: their token ids.

    `good`, for a method that imitates: whether each pair has a chosen completion. Raises `InputError` as `places` and
    `good_completions` do.
    """
    found = places(paths, where, drop)
    if good is not None:
        found = good_completions(good, found, paths)
    if share < 1:
        taken = drawn(tokens.pair_ids(found), len(tokens) if found is None else len(found), share, seed)
        found = taken if found is None else found[taken]
    return found


def selected_by(run: Run, sides: Sequence[str]) -> npt.NDArray[np.int64] | None:
    """The same for a run whose method reads these completions. Raises `InputError` where they cannot be told yet."""
    paths, settings = RunPaths.of(run), run.train
    imitates = tuple(sides) == ("chosen",)
    good = read_frame(paths.pairs("train"), ["chosen_id"])["chosen_id"].is_not_null() if imitates else None
    tokens = TokenFile(paths.tokens("train"))
    return selected(paths, tokens, settings.where, settings.drop, good=good, share=settings.share, seed=run.data.seed)


def places(paths: RunPaths, where: str | None, drop: Sequence[str]) -> npt.NDArray[np.int64] | None:
    """The rows of the training pairs to keep, in order; None where nothing selects.

    Raises `InputError` for a condition or a finding that is none, a finding without an audit of these pairs, and where
    no pair is left.
    """
    if where is None and not drop:
        return None
    pairs = with_others(joined_pairs(paths, ("train",)), paths, ("train",))
    rows = [_where(pairs, where)] if where is not None else []
    if drop:
        rows.append(remaining(pairs, drop, _findings(paths)))
    both = rows[0] if len(rows) == 1 else np.intersect1d(rows[0], rows[1], assume_unique=True)
    if not len(both):
        raise InputError(
            "The condition holds only for pairs that are dropped.",
            found=f"where = {where!r}, drop = {list(drop)}: no training pair is left",
            where="train.where and train.drop",
            fix="Widen the condition, or drop fewer.",
        )
    return both


def _where(pairs: pl.LazyFrame, where: str) -> npt.NDArray[np.int64]:
    expression, reads = condition(where, pairs.collect_schema().names())
    return kept(pairs.select(reads or ["pair_id"]), expression, where)


def _findings(paths: RunPaths) -> list[str]:
    if not paths.audit_summary.is_file():
        raise _no_audit(paths)
    _, document = read_audit(paths)  # an error where another version wrote it
    if current_audit(paths) is None:
        raise _no_audit(paths)
    return [finding["name"] for finding in document["findings"]]


def _no_audit(paths: RunPaths) -> InputError:
    return InputError(
        "Pairs are to be dropped by findings of an audit, and there is no audit of these pairs.",
        found=f"no audit of the prepared pairs in {paths.audit}",
        where="train.drop",
        fix="Run `scoreonce audit` with this run file first.",
    )


def good_completions(
    has_chosen: pl.Series, places: npt.NDArray[np.int64] | None, paths: RunPaths
) -> npt.NDArray[np.int64] | None:
    """Those of `places` (None: all) with a chosen completion, for a method that imitates it; said where some have none.

    Raises `InputError` where none has.
    """
    good = has_chosen.to_numpy()
    if good.all():
        return places
    kept = np.flatnonzero(good) if places is None else places[good[places]]
    if not len(kept):
        raise InputError(
            "There is no good completion to imitate.",
            found=f"{len(good):,} completions, all of them bad",
            where=str(paths.pairs("train")),
            fix="Train with kto or bco, or correct the column of the label: data.columns.label.",
        )
    left = len(good if places is None else places) - len(kept)
    logger.info(f"unpaired data: trains on {len(kept):,} good completions, leaves out {left:,} bad ones")
    return kept


def drawn(pair_ids: Iterable[str], pairs: int, share: float, seed: int) -> npt.NDArray[np.int64]:
    """The places of `share` of so many pairs, at least one, in order.

    Each pair has a number made of its id and the seed, and those with the smallest are taken: so a smaller share is a
    part of a larger one, and of other pairs beside them the same are taken.
    """
    key = seed.to_bytes(8, "little")
    digests = (hashlib.blake2b(each.encode(), digest_size=8, key=key).digest() for each in pair_ids)
    numbers = np.fromiter((int.from_bytes(digest, "little") for digest in digests), np.uint64, pairs)
    return np.sort(numbers.argsort(kind="stable")[: max(1, round(share * pairs))])


def balance(columns: Mapping[str, npt.NDArray[np.float64]], hyperparameters: Mapping[str, float | str]) -> str | None:
    """What to say of the numbers of good and bad completions and of the weights that balance them; None for pairs."""
    good, bad = (int(columns[f"has_{side}"].sum()) for side in ("chosen", "rejected"))
    if good == bad == len(columns["has_chosen"]):
        return None
    said = f"unpaired data: {good:,} good and {bad:,} bad completions"
    if not good or not bad:
        return f"{said}; with one kind alone there is nothing to tell apart"
    desirable, undesirable = (float(hyperparameters[f"{name}_weight"]) for name in ("desirable", "undesirable"))
    low, high = BALANCE
    if not undesirable or low <= desirable * good / (undesirable * bad) <= high:
        return said
    # The smaller number gets the larger weight.
    weights = [bound * undesirable * bad / good for bound in BALANCE]
    name = "desirable_weight"
    if good > bad:
        weights, name = [desirable * good / (bound * bad) for bound in reversed(BALANCE)], "undesirable_weight"
    ratio = desirable * good / (undesirable * bad)
    return (
        f"{said}; desirable_weight * good / (undesirable_weight * bad) is {ratio:.3g}, "
        f"KTO's authors keep it from 1 to 4/3: train.{name} from {weights[0]:.3g} to {weights[1]:.3g}"
    )
