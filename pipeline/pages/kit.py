"""What all pages share: the template environment, the style, and the policy that admits one script.

A page is one self-contained HTML file. It loads nothing: style, script and data are inside, and its content security
policy forbids any request and any script but its own, so that text from a dataset cannot become code.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import jinja2
import vl_convert
from markupsafe import Markup

from scoreonce.pipeline.pages import numbers as text


@cache
def environment() -> jinja2.Environment:
    """Templates beside this file, with autoescaping and filters for numbers."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("scoreonce.pipeline.pages", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    made.filters |= {
        "number": text.number,
        "percent": text.percent,
        "signed": text.signed,
        "fixed": text.fixed,
        "clock": text.clock,
    }
    return made


def resource(name: str) -> str:
    """The text of a file of the package."""
    return files("scoreonce.pipeline.pages").joinpath(name).read_text(encoding="utf-8")


def style(*names: str) -> Markup:
    """The common style sheet, and after it the page's own."""
    return Markup("".join(map(resource, ("page.css", *names))))


@cache
def charts_script() -> Mapping[str, str]:
    """vega, vega-lite and vega-embed with our drawing code at their end, about 0.9 MB, bundled without network."""
    return script(vl_convert.javascript_bundle(resource("charts.js")))


def script(source: str) -> dict[str, str]:
    """The page's one script and the digest by which its policy admits it, as the base template reads them."""
    # Inside a script element only these two could end it early; in JavaScript strings the backslash changes nothing.
    whole = source.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    digest = base64.b64encode(hashlib.sha256(whole.encode()).digest()).decode()
    return {"script": Markup(whole), "script_hash": digest}
