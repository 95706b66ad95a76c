"""Which queries of packed prompt rows attend to which keys: the work of attention, group by group."""

from __future__ import annotations

from typing import NamedTuple

from scoreonce.pipeline.batches.prompt_rows import CPU_MULTIPLE, round_up


class Span(NamedTuple):
    """The lengths of a prompt row: its prompt, and the positions of each completion (tokens - 1)."""

    prompt: int
    completions: tuple[int, ...]

    @property
    def length(self) -> int:
        """Positions of the row."""
        return self.prompt + sum(self.completions)


class QueryGroup(NamedTuple):
    """Consecutive queries, and the keys that the last of them attends to, its own last."""

    queries: slice
    keys: tuple[slice, ...]

    @property
    def query_count(self) -> int:
        """Number of queries."""
        return int(self.queries.stop - self.queries.start)

    @property
    def key_count(self) -> int:
        """Number of keys."""
        return sum(places.stop - places.start for places in self.keys)

    def within(self, window: int) -> QueryGroup:
        """The same group without the keys that lie before the window of its first query."""
        before, keys = self.key_count - self.query_count - (window - 1), []
        for places in self.keys:
            left_out = min(max(before, 0), places.stop - places.start)
            before -= left_out
            if places.start + left_out < places.stop:
                keys.append(slice(places.start + left_out, places.stop))
        return QueryGroup(self.queries, tuple(keys))

    @property
    def padding(self) -> int:
        """Keys to add for a multiple of CPU_MULTIPLE."""
        return round_up(self.key_count, CPU_MULTIPLE) - self.key_count
