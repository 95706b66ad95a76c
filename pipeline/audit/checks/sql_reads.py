"""SQL of the user's reads the tables that it is given, and no file: polars has table functions that open any path."""

from __future__ import annotations

import re

from scoreonce.schemas.errors import InputError

_TEXT = re.compile(r"'[^']*'")
_OTHER_QUOTES_OR_COMMENTS = re.compile(r"--|/\*|[\\$\"`#]")
_READS = re.compile(r"\bread_\w+", re.IGNORECASE)


def refuse_files(sql: str, where: str) -> None:
    """Raise `InputError` where a query names a table function such as `read_csv`.

    The name may stand in a text in single quotes, unless the query has comments or other quotes, with which a text
    could be made to look like one.
    """
    bare = sql if _OTHER_QUOTES_OR_COMMENTS.search(sql) else _TEXT.sub("''", sql)
    if found := _READS.search(bare):
        raise InputError(
            "The SQL reads a file.",
            found=f"{found[0]} in {sql!r:.200}",
            where=where,
            fix="Read only the tables of the run and their columns; the Parquet files themselves open in any tool.",
        )
