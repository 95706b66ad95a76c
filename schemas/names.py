"""Names that become folders: labels of training runs and of evaluations."""

from __future__ import annotations

import re

from scoreonce.schemas.errors import InputError

LONGEST = 100
# "+" joins the pieces of a composed method, as in ipo+batch_beta.
_NAME = re.compile(rf"(?!\.)[A-Za-z0-9_.+-]{{1,{LONGEST}}}")


def require_name(name: str, where: str) -> str:
    """The name, which is one folder's and no path. Raises `InputError`, which names the key `where`, for any other."""
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= LONGEST else f"{name[:LONGEST]}… ({len(name):,} characters)"
        raise InputError(
            "A label cannot be used as the name of a folder.",
            found=f"{shown!r}",
            where=where,
            fix=f"Use letters (a to z), digits and - _ . +, no dot in front, at most {LONGEST} characters: "
            f"{name_of(name)[:40] or 'dpo-2'}",
        )
    return name


def name_of(text: str) -> str:
    """A name made of any text: runs of other characters become "-". Empty where nothing is left."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip("-.")[:LONGEST]
