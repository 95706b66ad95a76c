"""The tables of docs/migration.md, made from the data that translate.

Run it as `python -m scoreonce.stages.migration.document`; it writes the tables between the markers of the page. A test
compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from scoreonce.stages.migration import axolotl, llamafactory, trl_keys
from scoreonce.stages.migration.mapped import Key, Verdict

PAGE = Path("docs/migration.md")


def tables() -> dict[str, str]:
    """The tables by the name of their marker."""
    return {
        "trl-maps": _mapped(trl_keys.KEYS),
        "trl-losses": _losses(),
        "trl-not-supported": _reasons(trl_keys.KEYS, "not supported"),
        "trl-not-needed": _reasons(trl_keys.KEYS, "not needed"),
        "axolotl": _mapped(axolotl.KEYS),
        "axolotl-not-supported": _reasons(axolotl.KEYS, "not supported"),
        "llamafactory": _mapped(llamafactory.KEYS),
        "llamafactory-not-supported": _reasons(llamafactory.KEYS, "not supported"),
    }


def with_tables(page: str) -> str:
    """The page with its tables as they should be."""
    for name, table in tables().items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        page = f"{before}{begin}{table}\n{end}{after}"
    return page


def _mapped(keys: Mapping[str, Key]) -> str:
    """The keys that map; those with one target and one remark share a row."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name, key in keys.items():
        if key.verdict == "maps":
            rows.setdefault((key.ours, key.why), []).append(name)
    return _table(
        ("there", "run file", ""), ((_code(names), _code(ours.split(", ")), why) for (ours, why), names in rows.items())
    )


def _losses() -> str:
    rows = (
        (f"`{theirs}`", f"`{ours}`", trl_keys.LOSS_NOTES.get(theirs, ""))
        for theirs, (ours, _) in trl_keys.LOSSES.items()
    )
    return _table(("`loss_type`", "`train.method`", ""), rows)


def _reasons(keys: Mapping[str, Key], verdict: Verdict) -> str:
    rows: dict[str, list[str]] = {}
    for name, key in keys.items():
        if key.verdict == verdict:
            rows.setdefault(key.why, []).append(name)
    return _table(("there", "why"), ((_code(names), why) for why, names in rows.items()))


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    def lines() -> Iterator[str]:
        yield line(head)
        yield "|---" * len(head) + "|"
        yield from map(line, rows)

    return "\n".join(lines())


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
