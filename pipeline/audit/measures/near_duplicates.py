"""Near-duplicate texts: candidates by MinHash and banding (rensa), each then verified by its exact Jaccard index.

A text is a set of shingle hashes; equal texts after normalisation have one key and are one document here. 16 bands of
5 values find a pair of Jaccard 0.8 with probability 1 − (1 − 0.8⁵)¹⁶ = 0.998, one of 0.5 with 0.40.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from rensa import RMinHash
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from scoreonce.pipeline.audit.measures.ragged import Counts, Hashes, Ragged, jaccard

BANDS, ROWS = 16, 5
_SEED = 1
# In a band, a document is compared with the first of its bucket and with this many of those that follow: a bucket of a
# million copies of a template must not become 10¹² pairs.
_NEIGHBOURS = 4
_PAIRS_AT_ONCE = 1 << 18  # at most 2²⁰, the sequences that `ragged` numbers
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Sketches:
    """Distinct documents: key, band hashes, place of the first occurrence (3 · pair + side), whether there are more."""

    keys: Hashes  # (documents,)
    bands: npt.NDArray[np.uint32]  # (documents, BANDS): who meets by chance is told apart by the exact index
    places: Counts  # (documents,)
    repeated: npt.NDArray[np.bool_]  # (documents,)


@dataclass(frozen=True)
class NearDuplicates:
    """Documents with a near-duplicate: the number of their group, and the place of one similar document."""

    keys: Hashes
    groups: Counts
    others: Counts
    pairs_compared: int

    def frame(self, prefix: str) -> pl.DataFrame:
        """`key`, `<prefix>_group` and `<prefix>_other`, the pair number of the other."""
        return pl.DataFrame(
            {"key": self.keys, f"{prefix}_group": self.groups.astype(np.int64), f"{prefix}_other": self.others // 3}
        )


def sketches(shingles: Ragged, keys: Hashes, places: Counts, keep: npt.NDArray[np.bool_] | None = None) -> Sketches:
    """Sketches of the distinct documents among texts."""
    kept = np.arange(len(keys)) if keep is None else np.flatnonzero(keep)
    distinct, first, counts = np.unique(keys[kept], return_index=True, return_counts=True)
    documents = shingles.take(kept[first])
    offsets = np.concatenate([[0], documents.ends]).astype(np.uint64)
    values = np.ascontiguousarray(documents.values)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(values, offsets, BANDS * ROWS, _SEED)
    rows = np.array(matrix.to_rows(), np.uint64).reshape(len(distinct), BANDS, ROWS)
    bands = rows[:, :, 0].copy()
    for row in range(1, ROWS):
        bands = (bands ^ (bands >> np.uint64(29))) * _MIX + rows[:, :, row]
    mixed = (bands ^ (bands >> np.uint64(29))) * _MIX  # so that the last value reaches the upper half too
    return Sketches(distinct, (mixed >> np.uint64(32)).astype(np.uint32), places[kept[first]], counts > 1)


def merged(parts: list[Sketches]) -> Sketches:
    """The distinct documents of all parts."""
    keys, places = np.concatenate([p.keys for p in parts]), np.concatenate([p.places for p in parts])
    distinct, first, counts = np.unique(keys, return_index=True, return_counts=True)
    repeated = (counts > 1) | np.concatenate([p.repeated for p in parts])[first]
    return Sketches(distinct, np.concatenate([p.bands for p in parts])[first], places[first], repeated)


def candidates(found: Sketches) -> Counts:
    """Pairs of documents that share a band, (pairs, 2), smaller number first. Two sides of one pair do not count."""
    count = len(found.keys)
    packed = np.empty(0, np.int64)
    for band in range(BANDS):
        order = np.argsort(found.bands[:, band])
        value = found.bands[order, band]
        starts = np.flatnonzero(np.concatenate([[True], value[1:] != value[:-1]]))
        firsts = np.repeat(starts, np.diff(starts, append=count))
        partners = [(firsts, np.arange(count))]
        partners += [(np.arange(count - lag), np.arange(lag, count)) for lag in range(1, min(_NEIGHBOURS, count) + 1)]
        for left, right in partners:
            same = (value[left] == value[right]) & (left != right)
            ends = np.sort(np.stack([order[left[same]], order[right[same]]]), axis=0)
            packed = np.concatenate([packed, ends[0] * count + ends[1]])
        packed = np.unique(packed)
    pairs = np.stack([packed // count, packed % count], axis=1) if count else np.empty((0, 2), np.int64)
    left, right = pairs[:, 0], pairs[:, 1]
    one_row = (found.places[left] // 3 == found.places[right] // 3) & ~found.repeated[left] & ~found.repeated[right]
    return pairs[~one_row]


def near_duplicates(found: Sketches, read: Callable[[Counts], Ragged], threshold: float) -> NearDuplicates:
    """The documents with another of Jaccard ≥ `threshold`. `read` returns the shingles of the texts at given places."""
    pairs = candidates(found)
    documents = np.unique(pairs)
    shingles = read(found.places[documents])
    number = np.searchsorted(documents, pairs)
    similar = [
        jaccard(shingles.take(part[:, 0]), shingles.take(part[:, 1])) >= threshold
        for part in np.array_split(number, max(1, -(-len(number) // _PAIRS_AT_ONCE)))
    ]
    edges = pairs[np.concatenate(similar)]
    count = len(found.keys)
    graph = csr_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(count, count))
    group = connected_components(graph, directed=False)[1]
    # Each document keeps one similar document: the last edge written wins.
    other = np.full(count, -1)
    other[edges[:, 0]], other[edges[:, 1]] = edges[:, 1], edges[:, 0]
    has = np.flatnonzero(other >= 0)
    return NearDuplicates(found.keys[has], group[has], found.places[other[has]], len(pairs))
