"""Decodes HTML entities: "Don&#8217;t" becomes "Don’t", before any other rule sees the text.

Entities that were escaped again, once or more ("&amp;#39;"), are decoded to their end: nobody wants to hear what is in
between. So "&lt;laugh&gt;" is a tag, as clients escape tags and nobody reads angle brackets aloud. What only looks like
an entity ("R&D;", "AT&T", "?a=1&copy=2") is left alone.
"""

from __future__ import annotations

import html
import re
from html.entities import html5

_AGAIN = "&(?:amp;|#38;|#[xX]26;){0,8}"
# Those that are also common without their semicolon, where no word or address goes on.
_BARE = r"(?:amp|lt|gt|quot|nbsp)(?![\w;=])"
_ENTITY = re.compile(
    rf"{_AGAIN}(?:#(?P<decimal>[0-9]{{2,9}});?|#(?P<one>[0-9]);|#[xX](?P<hex>[0-9A-Fa-f]{{1,8}});"
    rf"|(?P<name>[A-Za-z][A-Za-z0-9]{{1,31}};|{_BARE}))"
)
_HIGH_SURROGATE = "&#(?:5[56][0-9]{3}|[xX][dD][89ABab][0-9A-Fa-f]{2});|[\ud800-\udbff]"
_UNFINISHED = re.compile(
    rf"(?:{_HIGH_SURROGATE})?{_AGAIN}(?:#(?:[0-9]{{0,9}}|[xX][0-9A-Fa-f]{{0,8}})|[A-Za-z0-9]{{0,32}})\Z"
    rf"|(?:{_HIGH_SURROGATE})\Z"
)
_LONGEST_CHARS = 96  # of what `_UNFINISHED` can match


def decode(text: str) -> str:
    """`text` with its entities as characters, and surrogate pairs joined; a lone surrogate becomes U+FFFD."""
    if "&" in text:
        text = _ENTITY.sub(_character, text)
    return (
        text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    )


def finished_end(text: str) -> int:
    """The end of `text` without a beginning of an entity or of a surrogate pair that more text may complete."""
    start = max(0, len(text) - _LONGEST_CHARS)
    unfinished = _UNFINISHED.search(text, start)
    return unfinished.start() if unfinished else len(text)


def _character(match: re.Match[str]) -> str:
    if name := match["name"]:
        return html5.get(name) or f"&{name}"
    digits = match["decimal"] or match["one"]
    code = int(digits) if digits else int(match["hex"], 16)
    # JavaScript escapes an emoji as two surrogates.
    return chr(code) if 0xD800 <= code < 0xE000 else html.unescape(f"&#{code};")
