"""Pause marks: `[pause:2s]`, `<break time="2s"/>` and their like → one placeholder, where the text is cut.

A placeholder is a private-use character that holds the length, so a cut needs no parsing. `IncomingText` makes them, of
a whole text as of one that arrives, and removes from the input what looks like one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_PAUSE_MS = 10_000  # of one pause, and of several with nothing said between them
MAX_TOTAL_PAUSE_MS = 300_000  # of all pauses of a text: silence costs its sender nothing

# Azure's lengths for SSML's strengths. "none" asks for no pause.
_STRENGTHS_MS = {"none": 0, "x-weak": 250, "weak": 500, "medium": 750, "strong": 1000, "x-strong": 1250}
_DEFAULT_MS = _STRENGTHS_MS["medium"]

_FIRST = 0xF0000  # plane 15, private use
_PLACEHOLDERS = f"{chr(_FIRST)}-{chr(_FIRST + MAX_PAUSE_MS)}"
PLACEHOLDER = re.compile(f"[{_PLACEHOLDERS}]")

_LENGTH = (
    r"(?P<{0}>[+-]?(?:\d{{1,40}}(?:[.,]\d{{0,9}})?|[.,]\d{{1,9}})(?:e[+-]?\d{{1,3}})?)"
    r"\s?(?P<{0}_unit>ms|msecs?|milliseconds?|s|secs?|seconds?)?"
)
_BRACKETED = re.compile(
    rf"\[\s?(?:(?:pause|break)|(?:pause|break|silence)(?:\s?[:=]\s?|\s){_LENGTH.format('length')})\s?\]",
    re.IGNORECASE,
)
_ELEMENT = re.compile(
    r"<\s?(?:/\s?)?(?:break|pause|silence)(?P<rest>(?:[\s:=/][^<>]{0,200})?)>", re.IGNORECASE
)
_IN_ELEMENT = re.compile(
    rf"""(?:^[\s:=]*|\b(?:time|duration|length)\s?=\s?["']?\s?){_LENGTH.format("length")}(?=[\s"'/]|$)"""
    rf"""|\bmsec\s?=\s?["']?\s?(?P<msec>[+-]?\d{{1,40}})""",
    re.IGNORECASE,
)
_STRENGTH = re.compile(r"""\bstrength\s?=\s?["']?\s?(?P<strength>[a-z-]{1,10})""", re.IGNORECASE)
# The end of a text that may become a mark.
UNFINISHED = re.compile(
    r"\[\s?(?:pause|break|silence)[\s:=][^\[\]\n]{0,80}\Z|<\s?(?:break|pause|silence)[\s:=/][^<>]{0,200}\Z",
    re.IGNORECASE,
)


def read(text: str, start: int) -> tuple[int, int] | None:
    """The end of the pause mark at `start`, and its length in milliseconds; None if there is none."""
    if text[start] == "[":
        if mark := _BRACKETED.match(text, start):
            length_ms = _length_ms(mark["length"], mark["length_unit"]) if mark["length"] else _DEFAULT_MS
            return mark.end(), length_ms
        return None
    mark = _ELEMENT.match(text, start)
    return (mark.end(), 0 if "/" in mark[0][:3] else _element_ms(mark["rest"])) if mark else None


def _element_ms(attributes: str) -> int:
    if found := _IN_ELEMENT.search(attributes):
        return (
            _length_ms(found["msec"], "ms")
            if found["msec"]
            else _length_ms(found["length"], found["length_unit"])
        )
    strength = _STRENGTH.search(attributes)
    return _STRENGTHS_MS.get(strength["strength"].lower(), _DEFAULT_MS) if strength else _DEFAULT_MS


def _length_ms(amount: str, unit: str | None) -> int:
    """Within 0 and MAX_PAUSE_MS; without a unit, in seconds."""
    scale = 1 if (unit or "s").lower().startswith("m") else 1000
    return round(min(max(float(amount.replace(",", ".")) * scale, 0.0), float(MAX_PAUSE_MS)))


def placeholder(length_ms: int) -> str:
    """For 0 ms a space: there is nothing to wait for."""
    return chr(_FIRST + length_ms) if length_ms else " "


def without_placeholders(text: str) -> str:
    """`text` as a client sent it, which must not contain any."""
    return text if text.isascii() else PLACEHOLDER.sub(" ", text)


def length_ms(text: str) -> int:
    """How long the placeholder that is all of `text` lasts; 0 for any other text."""
    return ord(text) - _FIRST if PLACEHOLDER.fullmatch(text) else 0


def split(text: str) -> Iterator[tuple[str, int]]:
    """The parts between placeholders, each with the pause after it in milliseconds; 0 after the last."""
    start = 0
    for mark in PLACEHOLDER.finditer(text):
        yield text[start : mark.start()], length_ms(mark[0])
        start = mark.end()
    yield text[start:], 0
