"""Useful floating-point operations of a Llama-like model: what a layout of the tokens needs, padding not counted.

A product of (m, k) with (k, n) counts 2 m k n. A backward pass counts twice the forward, recomputation nothing. Of the
last block nothing is needed but keys and values, except at the positions that predict a completion token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, field


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama; queries, keys and values have the same number of heads."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int

    @property
    def answer_weights(self) -> int:
        """Weights of a block that only what is read of it needs: queries, attention's output, the feed-forward."""
        return 2 * self.width**2 + 3 * self.width * self.feed_forward

    @property
    def body_weights(self) -> int:
        """Weights of all blocks: keys and values beside those."""
        return self.layers * (2 * self.width**2 + self.answer_weights)

    @property
    def parameters(self) -> int:
        """All weights: body, norms, embeddings, and a head of its own."""
        return self.body_weights + (2 * self.layers + 1) * self.width + 2 * self.vocabulary * self.width


@dataclass(frozen=True)
class Needs:
    """What a forward pass over some pairs needs: positions in the body, visible (query, key) pairs, head rows.

    `read` are the positions that predict a completion token, `seen` the visible pairs of their queries.
    """

    positions: int
    visible: int
    predictions: int
    read: int
    seen: int

    def __add__(self, other: Needs) -> Needs:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Needs(*(own + more for own, more in pairs))

    def body(self, shape: Shape) -> int:
        """Operations of a forward pass through the blocks; attention's two products cost 4 x width per visible pair."""
        weights = shape.body_weights * self.positions - shape.answer_weights * (self.positions - self.read)
        visible = (shape.layers - 1) * self.visible + self.seen
        return 2 * weights + 4 * shape.width * visible

    def head(self, shape: Shape) -> int:
        """Operations of the output head's forward."""
        return 2 * shape.width * shape.vocabulary * self.predictions

    def forward(self, shape: Shape) -> int:
        """Operations of a forward pass."""
        return self.body(shape) + self.head(shape)

    def training(self, shape: Shape) -> int:
        """Operations of a forward and a backward pass."""
        return 3 * self.forward(shape)


@dataclass(frozen=True)
class PairLengths:
    """Tokens of a pair's prompt and of its completions."""

    prompt: int
    completions: tuple[int, ...] = field(default=())

    def shared(self) -> Needs:
        """The prompt once, each completion behind it; a completion's last token is only predicted."""
        prompt, needs = self.prompt, Needs(self.prompt, _causal(self.prompt), 0, 1, self.prompt)
        for tokens in self.completions:
            visible = (tokens - 1) * prompt + _causal(tokens - 1)
            needs += Needs(tokens - 1, visible, tokens, tokens - 1, visible)
        return needs

    def repeated(self) -> Needs:
        """A sequence of its own for each completion, prompt included and last token fed too, as TRL has it."""
        whole, read = [self.prompt + tokens for tokens in self.completions], sum(self.completions)
        seen = sum(_causal(tokens - 1) - _causal(self.prompt - 1) for tokens in whole)
        return Needs(sum(whole), sum(map(_causal, whole)), read, read, seen)


def total(needs: Iterable[Needs]) -> Needs:
    """The sum over pairs."""
    return sum(needs, start=Needs(0, 0, 0, 0, 0))


def _causal(length: int) -> int:
    return length * (length + 1) // 2
