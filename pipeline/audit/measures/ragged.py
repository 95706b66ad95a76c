"""Sequences of different lengths in one flat array, and sets of hashes by sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]
_HASH_BITS = np.uint64(44)  # of a hash beside its sequence's number; two sets of 10³ collide once in 10⁷


@dataclass(frozen=True)
class Ragged:
    """Sequence i is `values[ends[i - 1]:ends[i]]`."""

    values: Hashes
    ends: Counts  # (sequences,)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> Counts:
        """(sequences,)."""
        return np.diff(self.ends, prepend=0)

    def take(self, which: Counts) -> Ragged:
        """The sequences of these numbers, in this order."""
        lengths = self.lengths[which]
        ends = np.cumsum(lengths)
        shift = np.repeat(self.ends[which] - ends, lengths)
        return Ragged(self.values[np.arange(ends[-1] if len(ends) else 0) + shift], ends)


def concatenate(parts: list[Ragged]) -> Ragged:
    """All sequences, one part after the other."""
    starts = np.cumsum([0, *(len(part.values) for part in parts)])
    ends = [part.ends + start for part, start in zip(parts, starts, strict=False)]
    return Ragged(
        np.concatenate([part.values for part in parts] or [np.empty(0, np.uint64)]),
        np.concatenate(ends or [np.empty(0, np.int64)]),
    )


def numbered(sequences: Ragged) -> Hashes:
    """Each value with its sequence's number in the upper 20 bits, sorted. At most 2²⁰ sequences."""
    number = np.repeat(np.arange(len(sequences), dtype=np.uint64), sequences.lengths)
    keys = (number << _HASH_BITS) | (sequences.values >> np.uint64(64 - int(_HASH_BITS)))
    keys.sort()
    return keys


def distinct_counts(keys: Hashes, sequences: int) -> Counts:
    """Distinct values of each sequence, from `numbered` keys; (sequences,)."""
    first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return np.bincount((keys[first] >> _HASH_BITS).astype(np.int64), minlength=sequences)


def jaccard(left: Ragged, right: Ragged) -> npt.NDArray[np.float64]:
    """|A ∩ B| / |A ∪ B| of the sets of sequence i on both sides; (sequences,), 0 where both are empty."""
    sides = [_distinct(numbered(side)) for side in (left, right)]
    both = np.concatenate(sides)
    both.sort(kind="stable")  # two sorted runs: merged in linear time
    sizes = np.bincount((both >> _HASH_BITS).astype(np.int64), minlength=len(left))
    shared = both[1:][both[1:] == both[:-1]]
    common = np.bincount((shared >> _HASH_BITS).astype(np.int64), minlength=len(left))
    return common / np.maximum(sizes - common, 1)


def _distinct(keys: Hashes) -> Hashes:
    first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]
