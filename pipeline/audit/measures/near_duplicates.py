"""Near-duplicate texts: candidates by MinHash and banding (rensa), each then verified by its exact Jaccard index.

A text is a set of shingle hashes; equal texts after normalisation have one key and are one document here. 16 bands of
5 values find a pair of Jaccard 0.8 with probability 1 − (1 − 0.8⁵)¹⁶ = 0.998, one of 0.5 with 0.40.

In memory are 90 bytes a document, the shingles of a bounded number of candidates, and no more than one band sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
_COMPARED_AT_ONCE = 1 << 23  # shingles of pairs, which take some 50 bytes each
_READ_AT_ONCE = 1 << 26  # shingles of documents, half a GiB; of more, as many passes over the texts are made
_KEPT_TOGETHER = 1 << 20  # documents
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Sketches:
    """Distinct documents: key, band hashes, place of the first occurrence (3 · pair + side), whether there are more."""

    keys: Hashes  # (documents,)
    bands: tuple[npt.NDArray[np.uint32], ...]  # of each part (BANDS, documents of the part)
    rows: npt.NDArray[np.int32]  # (documents,) of each document in all parts, one after the other
    places: Counts  # (documents,)
    repeated: npt.NDArray[np.bool_]  # (documents,)
    shingles: npt.NDArray[np.int32]  # (documents,) how many each has

    def band(self, number: int) -> npt.NDArray[np.uint32]:
        """(documents,) hashes of one band: who meets by chance is told apart by the exact index."""
        return np.concatenate([part[number] for part in self.bands])[self.rows]


@dataclass(frozen=True)
class NearDuplicates:
    """Documents with a near-duplicate: the number of their group, and the place of one similar document."""

    keys: Hashes
    groups: npt.NDArray[np.int32]
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
    upper = np.ascontiguousarray((mixed >> np.uint64(32)).astype(np.uint32).T)
    sizes = documents.lengths.astype(np.int32)
    numbers = np.arange(len(distinct), dtype=np.int32)
    return Sketches(distinct, (upper,), numbers, places[kept[first]], counts > 1, sizes)


def kept(parts: list[Sketches], more: Sketches) -> None:
    """Add the sketches of a call of `sketches` to those of others, the last of them in arrays of `_KEPT_TOGETHER`.

    The gaps that many small arrays leave behind would stay with the process.
    """
    parts.append(more)
    small = [part for part in parts if len(part.keys) < _KEPT_TOGETHER]  # the last ones
    if sum(len(part.keys) for part in small) >= _KEPT_TOGETHER:
        parts[-len(small) :] = [_joined(small)]


def _joined(parts: list[Sketches]) -> Sketches:
    keys, places, repeated, sizes = (
        np.concatenate(each)
        for each in zip(*((part.keys, part.places, part.repeated, part.shingles) for part in parts), strict=True)
    )
    bands = np.concatenate([band for part in parts for band in part.bands], axis=1)
    return Sketches(keys, (bands,), np.arange(len(keys), dtype=np.int32), places, repeated, sizes)


def merged(parts: list[Sketches]) -> Sketches:
    """The distinct documents of all parts, which are from `sketches` or `kept`. Their bands are not copied."""
    keys = np.concatenate([part.keys for part in parts])
    distinct, first, counts = np.unique(keys, return_index=True, return_counts=True)
    repeated = (counts > 1) | np.concatenate([part.repeated for part in parts])[first]
    places, sizes = (np.concatenate(each)[first] for each in zip(*((p.places, p.shingles) for p in parts), strict=True))
    bands = tuple(band for part in parts for band in part.bands)
    return Sketches(distinct, bands, first.astype(np.int32), places, repeated, sizes)


def candidates(found: Sketches) -> Counts:
    """Pairs of documents that share a band, (pairs, 2), smaller number first. Two sides of one pair do not count."""
    count = len(found.keys)
    packed = np.empty(0, np.int64)
    for band in range(BANDS):
        met = [ends[0] * count + ends[1] for ends in _in_one_bucket(found.band(band))]
        packed = np.unique(np.concatenate([packed, *met]))
    pairs = np.stack([packed // count, packed % count], axis=1) if count else np.empty((0, 2), np.int64)
    left, right = pairs[:, 0], pairs[:, 1]
    one_row = (found.places[left] // 3 == found.places[right] // 3) & ~found.repeated[left] & ~found.repeated[right]
    return pairs[~one_row]


def _in_one_bucket(values: npt.NDArray[np.uint32]) -> Iterator[Counts]:
    """Pairs of documents with equal values, (2, pairs) with the smaller number first; a pair may come twice."""
    order = np.argsort(values)
    value = values[order]
    # Few documents meet another one: the others take no part from here on.
    after = np.concatenate([value[1:] == value[:-1], [False]])[: len(value)]
    meets = after | np.concatenate([[False], after])[: len(value)]
    order, value = order[meets], value[meets]
    count = len(order)
    starts = np.flatnonzero(np.concatenate([[True], value[1:] != value[:-1]])[:count])
    firsts = np.repeat(starts, np.diff(starts, append=count))
    everyone = np.arange(count)
    partners = [(firsts, everyone)]
    partners += [(everyone[: count - lag], everyone[lag:]) for lag in range(1, min(_NEIGHBOURS, count) + 1)]
    for left, right in partners:
        same = (value[left] == value[right]) & (left != right)
        yield np.sort(np.stack([order[left[same]], order[right[same]]]), axis=0)


def near_duplicates(found: Sketches, read: Callable[[Counts], Ragged], threshold: float) -> NearDuplicates:
    """The documents with another of Jaccard ≥ `threshold`. `read` returns the shingles of the texts at given places."""
    pairs = candidates(found)
    count = len(found.keys)
    similar = np.zeros(len(pairs), bool)
    for some in _read_together(pairs, found.shingles):
        documents = np.unique(pairs[some])
        shingles = read(found.places[documents])
        number = np.searchsorted(documents, pairs[some])
        for part in _compared_together(shingles.lengths[number].sum(axis=1)):
            index = jaccard(shingles.take(number[part, 0]), shingles.take(number[part, 1]))
            similar[some[part]] = index >= threshold
    edges = pairs[similar]
    group = _components(edges, count)
    # Each document keeps one similar document: the last edge written wins.
    other = np.full(count, -1)
    other[edges[:, 0]], other[edges[:, 1]] = edges[:, 1], edges[:, 0]
    has = np.flatnonzero(other >= 0)
    return NearDuplicates(found.keys[has], group[has], found.places[other[has]], len(pairs))


def _components(edges: Counts, count: int) -> npt.NDArray[np.int32]:
    graph = csr_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(count, count))
    component: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return component


def _read_together(pairs: Counts, shingles: npt.NDArray[np.int32]) -> list[Counts]:
    """The numbers of the pairs, in sets whose documents have about `_READ_AT_ONCE` shingles; pairs that have documents
    in common stay together, unless there are too many of them.
    """
    if shingles[np.unique(pairs)].sum(dtype=np.int64) <= _READ_AT_ONCE:
        return [np.arange(len(pairs))]
    order = np.argsort(_components(pairs, len(shingles))[pairs[:, 0]], kind="stable")
    documents, first = np.unique(pairs[order], return_index=True)
    new = np.zeros(pairs.size, np.int64)
    new[first] = shingles[documents]
    return _cut(order, np.cumsum(new.reshape(pairs.shape).sum(axis=1)) // _READ_AT_ONCE)


def _compared_together(shingles: Counts) -> list[Counts]:
    """The numbers of pairs with so many shingles, in sets that are compared at once."""
    each = shingles + _COMPARED_AT_ONCE // _PAIRS_AT_ONCE
    return _cut(np.arange(len(shingles)), np.cumsum(each) // _COMPARED_AT_ONCE)


def _cut(numbers: Counts, sets: Counts) -> list[Counts]:
    """Numbers, cut where that of their set changes."""
    return np.split(numbers, np.flatnonzero(np.diff(sets)) + 1)
