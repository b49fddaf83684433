"""HTML and SSML elements: block elements become line breaks, which end sentences; inline elements vanish without a trace.

Pauses (`<break>`) and what no browser shows (`<script>`) are gone by then: incoming.py.
"""

from __future__ import annotations

import re

from orpheus.text.markup import ITEM
from orpheus.text.tags import ATTRIBUTE

_PARAGRAPHS = (
    "h[1-6r]|p|div|blockquote|section|article|header|footer|main|nav|aside|figure|figcaption|pre|table|thead|tbody|tfoot"
    "|caption|ul|ol|dl|form|fieldset|address|details|summary|body|html|title|center"
)
_LINES = "li|tr|dt|dd|br|option|optgroup|legend"
_INLINE = (
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|img|input|ins|kbd|label|link|mark|meta|nobr|output|q|s"
    "|samp|small|span|strike|strong|sub|sup|time|tt|u|var|wbr|answer|response|final"
    "|speak|say-as|prosody|emphasis|phoneme|voice|lang|w|desc|audio|token"
    "|amazon:effect|amazon:emotion|amazon:domain|mstts:express-as|mstts:silence|google:style"
)
_ELEMENT = re.compile(
    rf"<(?P<close>/?)(?P<name>(?P<paragraph>{_PARAGRAPHS})|(?P<line>{_LINES})|(?P<cell>t[dh])|{_INLINE})"
    rf"(?:{ATTRIBUTE}){{0,12}}\s?/?>",
    re.IGNORECASE,
)
_DECLARATION = re.compile(r"<(?:!doctype|\?xml)[^<>]{0,300}>", re.IGNORECASE)
_ALIAS = re.compile(
    r"""<sub\s+alias\s?=\s?(?:"(?P<double>[^"<>]{1,200})"|'(?P<single>[^'<>]{1,200})')\s?>[^<]{0,300}</sub>""",
    re.IGNORECASE,
)

# Stand for a break until the space around it is known; characters.normalize removes them from the input.
_PARAGRAPH, _LINE = "\x1c", "\x1d"
_BREAKS = re.compile(rf"([{_PARAGRAPH}{_LINE}][ \n{_PARAGRAPH}{_LINE}]*)")
# What ends a block in a text that is still being written.
BLOCK_END = r"</(?:h[1-6]|p|div|li|tr|blockquote|section|article|dt|dd|table|[uo]l)\s?>|<[bh]r\s?/?>"


def strip(text: str) -> tuple[str, int]:
    """`text` without elements, and how many tags there were. Linear in the text."""
    if "<" not in text:
        return text, 0
    text = _ALIAS.sub(lambda alias: alias["double"] or alias["single"], _DECLARATION.sub("", text))
    out: list[str] = []
    position = removed = 0
    last = _PARAGRAPH  # what `out` ends with, but for spaces
    for element in _ELEMENT.finditer(text):
        piece = text[position : element.start()]
        position = element.end()
        removed += 1
        last = piece.rstrip(" ")[-1:] or last
        replacement = _replacement(element, last)
        last = replacement.rstrip(" ")[-1:] or last
        out += [piece, replacement]
    if not out:
        return text, removed
    return _set_breaks("".join([*out, text[position:]])), removed


def _replacement(element: re.Match[str], last: str) -> str:
    if element["paragraph"]:
        return _PARAGRAPH
    if element["line"]:
        return _LINE
    if element["cell"]:
        first = element["close"] or last in (_PARAGRAPH, _LINE, "\n")
        return "" if first else " " if last in tuple(",;:.!?") else ", "
    if element["close"] and element["name"] in "sS":  # SSML's sentence, or struck out
        next_begins = element.string.startswith(("<s", "<S"), element.end())
        return _LINE if next_begins or last in tuple(".!?") else ""
    return ""


def _set_breaks(text: str) -> str:
    """Each run of breaks as an empty line, or as the beginning of a line that stands by itself."""
    piece, *rest = _BREAKS.split(text)
    out = [piece.rstrip(" \n")]
    for breaks, following in zip(rest[::2], rest[1::2], strict=True):
        gap = piece[len(out[-1]) :] + breaks
        piece = following
        out += ["\n\n" if _PARAGRAPH in gap or "\n\n" in gap else f"\n{ITEM}", piece.rstrip(" \n")]
    return "".join(out)
