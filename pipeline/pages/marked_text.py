"""A text with its differences marked, as HTML: what `diff` found, escaped, and long common stretches to unfold."""

from __future__ import annotations

from typing import Literal

from markupsafe import Markup

from scoreonce.pipeline.pages.diff import Block, Fragment, Side
from scoreonce.pipeline.pages.numbers import number
from scoreonce.pipeline.pages.text import visible

Tag = Literal["mark", "ins", "del"]


def markup(side: Side, tag: Tag = "mark") -> Markup:
    """A side as HTML within an element that keeps white space, with what differs in elements of this tag."""
    blocks = [_block(block, tag) for block in side.blocks]
    return Markup("").join([_left_out(side.before, "earlier"), *blocks, _left_out(side.after, "more")])


def _left_out(characters: int, where: str) -> Markup:
    if not characters:
        return Markup("")
    return Markup('<span dir="ltr" class="cut">{} {} characters are not on this page</span>').format(
        number(characters), where
    )


def _block(block: Block, tag: Tag) -> Markup:
    pieces = Markup("").join(_piece(piece, tag) for piece in block.pieces)
    if not block.folded:
        return pieces
    return Markup('<details><summary dir="ltr">{} characters</summary>{}</details>').format(
        number(block.characters), pieces
    )


def _piece(piece: Fragment, tag: Tag) -> Markup:
    if not piece.changed:
        return visible(piece.text)
    # White space at the end is marked only where nothing else is.
    end = len(piece.text.rstrip()) or len(piece.text)
    return Markup(f"<{tag}>{{}}</{tag}>{{}}").format(visible(piece.text[:end]), visible(piece.text[end:]))
