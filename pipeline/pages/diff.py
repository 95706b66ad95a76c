"""Two texts side by side: which words differ, and which common stretches are folded so that differences are in view."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import takewhile

# Characters of one text that a page holds at all, those that it shows at once, and those kept around a difference.
CAP = 8000
BUDGET = 700
CONTEXT = 120
LEAD = 1000
# Texts with a smaller share of common characters are shown without marks: everything would be marked.
LITTLE_IN_COMMON = 0.2
# Comparing every occurrence of a word with every other is quadratic; beyond this, frequent words only extend matches.
MANY_CELLS = 50_000

_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"(?:[{_CJK}]|[^\W{_CJK}]+|[^\w\s])\s*|\s+")


@dataclass(frozen=True)
class Fragment:
    """A stretch of text, `changed` where the other side differs."""

    text: str
    changed: bool = False


@dataclass(frozen=True)
class Block:
    """Pieces that are shown, or folded away until asked for."""

    pieces: tuple[Fragment, ...]
    folded: bool = False

    @property
    def characters(self) -> int:
        """Length of its text."""
        return sum(len(piece.text) for piece in self.pieces)


@dataclass(frozen=True)
class Side:
    """A text as the page shows it; `before` and `after` count the characters that the page does not hold."""

    blocks: tuple[Block, ...]
    before: int = 0
    after: int = 0


@dataclass(frozen=True)
class Comparison:
    """Two texts; `marked` unless they have so little in common that their differences are not marked."""

    left: Side
    right: Side
    marked: bool


def compare(left: str, right: str) -> Comparison:
    """The differing words of two texts, as sides that show at most `BUDGET` characters before they are unfolded."""
    start = _start(left, right)
    runs = list(_settled(_runs(left[start : start + CAP], right[start : start + CAP])))
    alike = sum(len(one) + len(other) for equal, one, other in runs if equal)
    marked = alike >= LITTLE_IN_COMMON * sum(len(one) + len(other) for _, one, other in runs)
    if not marked:
        runs = [(True, "".join(one for _, one, _ in runs), "".join(other for _, _, other in runs))]
    lefts = [Fragment(one, not equal) for equal, one, _ in runs if one]
    rights = [Fragment(other, not equal) for equal, _, other in runs if other]
    return Comparison(_side(left, lefts, start), _side(right, rights, start), marked)


def passage(text: str, head: int = 150, tail: int = 350) -> Side:
    """A prompt: its beginning and its end, where the question stands, with the middle folded away."""
    start = max(0, len(text) - CAP)
    held = text[start:]
    if len(held) <= head + tail + CONTEXT:
        return Side((Block((Fragment(held),)),), before=start)
    ends = (0, _word_end(held, head), _word_end(held, len(held) - tail), len(held))
    cuts = [
        Block((Fragment(held[low:high]),), folded=fold)
        for low, high, fold in zip(ends, ends[1:], (False, True, False), strict=False)
    ]
    return Side(tuple(cuts), before=start)


def excerpts(left: str, right: str, width: int = 280) -> tuple[str, str]:
    """Both texts cut to `width` characters from a little before their first difference; `…` stands where one is cut."""
    start = max(0, _common_prefix(left, right) - width // 4) if max(len(left), len(right)) > width else 0
    return _excerpt(left, start, width), _excerpt(right, start, width)


def _excerpt(text: str, start: int, width: int) -> str:
    return ("… " if start else "") + text[start : start + width] + (" …" if len(text) > start + width else "")


def _start(left: str, right: str) -> int:
    """Where the part that the page holds of two long texts begins: some way before they diverge."""
    return max(0, _common_prefix(left, right) - LEAD) if max(len(left), len(right)) > CAP else 0


def _common_prefix(left: str, right: str) -> int:
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[low:middle] == right[low:middle] else (low, middle - 1)
    return low


Run = tuple[bool, str, str]  # equal or not, the words on the left, those on the right


def _runs(left: str, right: str) -> Iterator[Run]:
    words, others = _WORD.findall(left), _WORD.findall(right)
    # The white space after a word matters only where nothing else differs.
    keys, other_keys = [word.strip() for word in words], [word.strip() for word in others]
    if keys == other_keys:
        keys, other_keys = words, others
    first = _same(zip(keys, other_keys, strict=False))
    last = _same(zip(reversed(keys[first:]), reversed(other_keys[first:]), strict=False))
    yield True, "".join(words[:first]), "".join(others[:first])
    ends = len(words) - last, len(others) - last
    for equal, a, b, c, d in _matches(keys[first : ends[0]], other_keys[first : ends[1]]):
        yield equal, "".join(words[first + a : first + b]), "".join(others[first + c : first + d])
    yield True, "".join(words[ends[0] :]), "".join(others[ends[1] :])


def _same(pairs: Iterable[tuple[str, str]]) -> int:
    """How many pairs, from the first on, are of equals."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _matches(keys: list[str], others: list[str]) -> Iterator[tuple[bool, int, int, int, int]]:
    """`difflib`'s opcodes: equal or not, and from where to where on each side."""
    counts, other_counts = Counter(keys), Counter(others)
    cells = sum(count * other_counts[key] for key, count in counts.items())
    for tag, a, b, c, d in SequenceMatcher(None, keys, others, autojunk=cells > MANY_CELLS).get_opcodes():
        yield tag == "equal", a, b, c, d


def _settled(runs: Iterable[Run]) -> Iterator[Run]:
    """The same runs, without islands: equal words no longer than the changes on either side belong to them."""
    done: list[Run] = []
    for run in runs:
        if not run[0] and len(done) > 1 and not done[-2][0] and len(done[-1][1]) <= min(_size(done[-2]), _size(run)):
            before, island = done[-2], done[-1]
            done[-2:] = [(False, before[1] + island[1] + run[1], before[2] + island[2] + run[2])]
        else:
            done.append(run)
    yield from done


def _size(run: Run) -> int:
    return max(len(run[1]), len(run[2]))


def _side(text: str, pieces: list[Fragment], start: int) -> Side:
    held = sum(len(piece.text) for piece in pieces)
    return Side(tuple(_joined(_within(BUDGET, _folded(pieces)))), before=start, after=len(text) - start - held)


def _folded(pieces: list[Fragment]) -> Iterator[Block]:
    """Long stretches without a difference folded away, but for `CONTEXT` characters beside each difference."""
    fits = sum(len(piece.text) for piece in pieces) <= BUDGET
    for index, piece in enumerate(pieces):
        if fits or piece.changed or len(piece.text) <= 3 * CONTEXT or len(pieces) == 1:
            yield Block((piece,))
            continue
        head = CONTEXT if index else 0
        tail = len(piece.text) - (CONTEXT if index + 1 < len(pieces) else 0)
        yield Block((Fragment(piece.text[:head]),))
        yield Block((Fragment(piece.text[head:tail]),), folded=True)
        yield Block((Fragment(piece.text[tail:]),))


def _within(budget: int, blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks, everything folded once `budget` characters are shown; a little more is shown rather than folded."""
    left = budget
    for block in blocks:
        if block.folded or block.characters <= left + CONTEXT:
            yield block
            left -= 0 if block.folded else block.characters
            continue
        piece, keep = block.pieces[0], _word_end(block.pieces[0].text, max(0, left))
        yield Block((Fragment(piece.text[:keep], piece.changed),))
        yield Block((Fragment(piece.text[keep:], piece.changed),), folded=True)
        left = -CONTEXT


def _word_end(text: str, most: int) -> int:
    """The end of the last whole word within `most` characters; `most` itself where the word began long before."""
    end = most if text[most : most + 1].isspace() else max(text.rfind(" ", 0, most), text.rfind("\n", 0, most))
    return end if end > most - CONTEXT / 2 else most


def _joined(blocks: Iterable[Block]) -> Iterator[Block]:
    """Neighbours of one kind as one block; empty ones left out."""
    last: Block | None = None
    for block in blocks:
        if not block.characters:
            continue
        if last and last.folded == block.folded:
            last = Block(last.pieces + block.pieces, last.folded)
            continue
        if last:
            yield last
        last = block
    if last:
        yield last
