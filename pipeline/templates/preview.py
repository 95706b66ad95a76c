"""Prepared pairs as text for a terminal: what the model reads and writes, special tokens and line ends visible."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scoreonce.pipeline.text.tokenize import Ids, TextEncoder

LONGEST = 2_000  # characters that are shown of a text; of longer ones the start and the end
SIDES = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class PairText:
    """The texts that the token ids of a pair decode to. A side that it does not have is None."""

    prompt: str
    chosen: str | None
    rejected: str | None


def decoded(encoder: TextEncoder, prompt: Ids, chosen: Ids, rejected: Ids) -> PairText:
    """The pair of these token ids as text with its special tokens."""
    start = _text(encoder, prompt)

    # Decoded alone, a completion would lose its first space in tokenizers of SentencePiece's kind.
    def completion(ids: Ids) -> str | None:
        if not len(ids):
            return None
        whole = _text(encoder, [*prompt, *ids])
        return whole.removeprefix(start) if whole.startswith(start) else _text(encoder, ids)

    return PairText(start, completion(chosen), completion(rejected))


def _text(encoder: TextEncoder, ids: Iterable[int]) -> str:
    return str(encoder.whole.decode([int(number) for number in ids], skip_special_tokens=False))


def preview_lines(number: int, pair: PairText) -> Iterator[str]:
    """The lines that show a pair, each side under its name. A line of the text ends in `\\n`."""
    yield f"pair {number}"
    for side in SIDES:
        text = getattr(pair, side)
        if text is not None:
            for place, line in enumerate(visible(text)):
                yield f"  {side if place == 0 else '':<9}| {line}"


def visible(text: str) -> list[str]:
    """The lines of a text. What a terminal would obey or not show is written as in Python, `\\x1b`, line ends too."""
    if len(text) > LONGEST:
        half = LONGEST // 2
        return [*visible(text[:half]), f"... {len(text) - LONGEST:,} characters ...", *visible(text[-half:])]
    *ended, last = text.split("\n")
    return [*(_escaped(line) + "\\n" for line in ended), *([_escaped(last)] if last or not ended else [])]


def _escaped(line: str) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in line
    )
