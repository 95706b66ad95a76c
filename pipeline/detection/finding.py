"""What is known of a dataset while its columns are told apart: names, first rows, and the decisions so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scoreonce.pipeline.text.dataset_columns import NOT_USED, Columns, Made, Row, match_columns
from scoreonce.pipeline.text.quarantine import RowError


@dataclass
class Finding:
    """`found`: the dataset's columns. `renamed`: data.columns, which nothing overrides. `notes`: decisions to log.

    `judged`: as in `Columns`.
    """

    found: list[str]
    sample: Sequence[Row]
    renamed: dict[str, str]
    names: dict[str, str]
    made: dict[str, Made]
    notes: list[str] = field(default_factory=list)
    judged: dict[str, Made] = field(default_factory=dict)

    @classmethod
    def of(cls, found: list[str], sample: Sequence[Row], renamed: dict[str, str]) -> Finding:
        """The columns whose names are those of roles, and those that the run file names.

        Raises `InputError` for a role or a column that does not exist.
        """
        matched = match_columns(found, renamed)
        return cls(found, sample, renamed, dict(matched.names), dict(matched.made))

    @property
    def columns(self) -> Columns:
        """The columns as they are told apart so far."""
        return Columns(self.names, self.made, judged=self.judged)

    def has(self, *roles: str) -> bool:
        """Whether each of these roles has a column."""
        return all(role in self.names for role in roles)

    def free(self, *roles: str) -> bool:
        """Whether none of these roles has a column, and the run file leaves none of them out."""
        return not any(role in self.names or self.renamed.get(role) == NOT_USED for role in roles)

    def take(self, role: str, column: str) -> None:
        """Give a role a column."""
        self.names[role] = column
        self.made.pop(role, None)

    def make(self, role: str, name: str, made: Made) -> None:
        """Give a role a value made of columns; messages call it `name`."""
        self.names[role], self.made[role] = name, made

    def leave_out(self, *roles: str) -> None:
        """Use no column for these roles."""
        for role in roles:
            self.names.pop(role, None)
            self.made.pop(role, None)

    def maker(self, role: str) -> Made:
        """How a role's value is got so far."""
        name = self.names[role]
        return self.made.get(role) or column_value(name)

    def values(self, role: str) -> list[Any]:
        """The values of a role in the first rows, without those that are missing or cannot be read."""
        found = []
        for row in self.sample:
            try:
                found.append(self.columns.value(row, role))
            except RowError:
                continue
        return [value for value in found if value is not None]

    def column(self, name: str) -> list[Any]:
        """The values of a column in the first rows, without those that are missing."""
        return [value for value in (row.get(name) for row in self.sample) if value not in (None, "")]


def column_value(name: str) -> Made:
    """The value of a column, as it is."""
    return Made((name,), lambda row: row.get(name))


def mostly(values: Sequence[Any], *kinds: type) -> bool:
    """Whether at least half of the values, and one at all, have one of these types."""
    return len(values) > 0 and 2 * sum(isinstance(value, kinds) for value in values) >= len(values)
