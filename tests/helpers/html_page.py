"""A page as a browser's parser takes it apart: tags, words and scripts."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags with attributes, the text outside of style and script, and the contents of script elements by id."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.scripts, self._open = [], [], {}, None
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._open = dict(attributes).get("id", tag)
            self.scripts.setdefault(self._open, "")

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._open = None

    def handle_data(self, data):
        if self._open:
            self.scripts[self._open] += data
        else:
            self.words.append(data)

    def loads_nothing(self):
        """Whether no tag, style or policy lets the page ask for anything from elsewhere."""
        named = {name for _, attributes in self.tags for name in attributes}
        links = [attributes for _, attributes in self.tags if "href" in attributes]
        policy = next(a["content"] for _, a in self.tags if a.get("http-equiv") == "Content-Security-Policy")
        return (
            not named & {"src", "srcset", "action", "data"}
            and all(map(_stays_here, links))
            and not any(word in self.scripts["style"] for word in ("url(", "@import"))
            and policy.startswith("default-src 'none'; script-src 'sha256-")
            and "unsafe-eval" not in policy
        )


def _stays_here(link):
    """Whether a link leads to a place of the page, to another page of its run, or saves data that are in it."""
    saves = link["href"].startswith(
        ("data:text/csv;charset=utf-8;base64,", "data:application/json;charset=utf-8;base64,")
    )
    pages = {f"{up}{name}" for up in ("", "../") for name in ("report.html", "audit/index.html", "compare/index.html")}
    return link["href"].startswith("#") or link["href"] in pages or (saves is not None and "download" in link)
