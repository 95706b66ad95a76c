"""A verdict in the terminal."""

from __future__ import annotations

import textwrap

from scoreonce.pipeline.verdict.text import paragraph
from scoreonce.pipeline.verdict.verdict import Verdict

WIDTH = 100


def lines(found: Verdict) -> list[str]:
    """The paragraph, indented under the line that names the run."""
    return textwrap.wrap(
        paragraph(found),
        WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
