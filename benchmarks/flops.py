"""Useful floating-point operations of a Llama-like model: what a layout of the tokens needs, padding not counted.

A product of (m, k) with (k, n) counts 2 m k n. A backward pass counts twice the forward, recomputation nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama; queries, keys and values have the same number of heads."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int

    @property
    def body_weights(self) -> int:
        """Weights that multiply every position: attention's four projections and the three of the feed-forward."""
        return self.layers * (4 * self.width**2 + 3 * self.width * self.feed_forward)

    @property
    def parameters(self) -> int:
        """All weights: body, norms, embeddings, and a head of its own."""
        return self.body_weights + (2 * self.layers + 1) * self.width + 2 * self.vocabulary * self.width


@dataclass(frozen=True)
class Needs:
    """What a forward pass over some pairs needs: positions in the body, visible (query, key) pairs, head rows."""

    positions: int
    visible: int
    predictions: int

    def __add__(self, other: Needs) -> Needs:
        return Needs(
            self.positions + other.positions, self.visible + other.visible, self.predictions + other.predictions
        )

    def body(self, shape: Shape) -> int:
        """Operations of a forward pass through the layers; attention's two products cost 4 x width per visible pair."""
        return 2 * shape.body_weights * self.positions + 4 * shape.layers * shape.width * self.visible

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
        prompt, needs = self.prompt, Needs(self.prompt, _causal(self.prompt), 0)
        for tokens in self.completions:
            needs += Needs(tokens - 1, (tokens - 1) * prompt + _causal(tokens - 1), tokens)
        return needs

    def repeated(self) -> Needs:
        """A sequence of its own for each completion, prompt included and last token fed too, as TRL has it."""
        whole = [self.prompt + tokens for tokens in self.completions]
        return Needs(sum(whole), sum(map(_causal, whole)), sum(self.completions))


def total(needs: Iterable[Needs]) -> Needs:
    """The sum over pairs."""
    return sum(needs, start=Needs(0, 0, 0))


def _causal(length: int) -> int:
    return length * (length + 1) // 2
