"""Text of a dataset as markup: escaped, with invisible characters written out."""

from __future__ import annotations

import re
import unicodedata

from markupsafe import Markup, escape

# Controls but tab and newline, marks of direction and of no width, line separators, tags, halves of surrogate pairs.
_UNSEEN = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e"
    r"\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e0fff"
)
_CONTROLS = (
    "NUL",
    "SOH",
    "STX",
    "ETX",
    "EOT",
    "ENQ",
    "ACK",
    "BEL",
    "BS",
    "HT",
    "LF",
    "VT",
    "FF",
    "CR",
    "SO",
    "SI",
    "DLE",
    "DC1",
    "DC2",
    "DC3",
    "DC4",
    "NAK",
    "SYN",
    "ETB",
    "CAN",
    "EM",
    "SUB",
    "ESC",
    "FS",
    "GS",
    "RS",
    "US",
)
# Joiners belong to emoji and to many scripts; only after Latin text they hide something.
_PATTERN = re.compile(rf"([{_UNSEEN}]|(?<=[\x20-\u024f])[\u200c\u200d])\1*")

_SETTING = re.compile(r"((?:\[\w+\] )?[\w.]+ = (?:&#34;.*?&#34;|\[&#34;.*?&#34;\])|`[^`]+`)")


def visible(text: str) -> Markup:
    """The text, escaped; each run of one invisible character as its name in a box, such as `U+202E` or `NUL×3`."""
    parts, end = [], 0
    for match in _PATTERN.finditer(text):
        parts += [escape(text[end : match.start()]), _box(match[1], len(match[0]))]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def advice(text: str) -> Markup:
    """What to do, with the settings in it as code: `[train] drop = ["duplicate_pair"]`."""
    return Markup(_SETTING.sub(r"<code>\1</code>", str(visible(text))))


def _box(character: str, times: int) -> Markup:
    code = ord(character)
    short = _CONTROLS[code] if code < len(_CONTROLS) else f"U+{code:04X}"
    title = f"{unicodedata.name(character, 'control character')}, U+{code:04X}"
    return Markup('<bdi dir="ltr" class="unseen" title="{}">{}</bdi>').format(
        title, short if times == 1 else f"{short}×{times:,}"
    )
