"""Links from each page of a run to the others that are there."""

from __future__ import annotations

import re
from collections.abc import Collection

from markupsafe import Markup

# Where the pages are in the folder of a run, and what a link to them says.
PAGES = {"report.html": "Report", "audit/index.html": "Data audit", "compare/index.html": "Comparison"}
# The place that the base template leaves for them. Text of data is escaped, so that it cannot look like this.
_PLACE = re.compile(r'<nav id="pages"[^>]*>.*?</nav>')


def with_links(html: str, page: str, there: Collection[str]) -> str:
    """The page with links, relative to it, to the others of `there`; names are those of `PAGES`.

    A page of an earlier version has no place for them, and stays as it is.
    """
    up = "../" * page.count("/")
    links = [
        Markup('<a href="{}">{}</a>').format(up + name, words)
        for name, words in PAGES.items()
        if name in there and name != page
    ]
    place = f'<nav id="pages" aria-label="Pages of this run">{" ".join(links)}</nav>'
    return _PLACE.sub(lambda _: place if links else '<nav id="pages" hidden></nav>', html, count=1)
