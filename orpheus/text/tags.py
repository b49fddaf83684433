"""Emotion tags: a text with `<tags>` → the text with a one-character placeholder for each tag the voice knows.

A placeholder is a private-use character, so no later stage can split or rewrite a tag. Unknown tags are removed and
counted.
"""

from __future__ import annotations

import re
from functools import cache

MAX_TAGS = 256  # of one voice
MAX_TAG_CHARS = 18  # of a name: streaming.py waits no longer for its ">"
_FIRST = 0xE000  # start of the private use area, which characters.normalize removes from the input
PLACEHOLDER = f"[{chr(_FIRST)}-{chr(_FIRST + MAX_TAGS - 1)}]"  # as part of a regular expression
PLACEHOLDER_CHARS = len(
    "<resoplido>"
)  # what one adds to a segment's length: the longest of the published tags
is_placeholder = re.compile(PLACEHOLDER).search

ATTRIBUTE = r"""\s[\w:.-]{1,40}\s?=\s?(?:"[^"<>]{0,200}"|'[^'<>]{0,200}'|[^\s"'<>=]{1,200})"""
# The name follows the bracket at once, so "a < b > c", "x<y and z>w" and "1 <2> 3" contain no tags.
_NAME = r"[^\W\d][\w:.-]{0,40}"
is_tag_name = re.compile(rf"{_NAME}(?: {_NAME})*").fullmatch


@cache
def _expression(known: tuple[str, ...]) -> re.Pattern[str]:
    """Finds tags; one with a space in its name only where it is known."""
    spaced = "".join(f"|{re.escape(tag)}" for tag in known if " " in tag)
    return re.compile(
        rf" ?<(?P<name>/?{_NAME}{spaced})(?P<rest>(?:{ATTRIBUTE}){{0,10}}\s?/?)>", re.IGNORECASE
    )


def to_placeholders(text: str, known: tuple[str, ...]) -> tuple[str, int]:
    """`text` with placeholders for the tags that are `known`, and how many others were removed."""
    numbers = {tag.lower(): number for number, tag in enumerate(known)}
    removed = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal removed
        number, before = numbers.get(match["name"].lower()), match[0][0] == " "
        follows = text[match.end() : match.end() + 1]
        if number is not None and not match["rest"]:
            before = before or text[match.start() - 1 : match.start()].isalnum()
            return " " * before + chr(_FIRST + number) + " " * follows.isalnum()
        removed += 1
        return "" if follows in tuple(".,;:!?") else " "

    return _expression(known).sub(replace, text), removed


def from_placeholders(text: str, known: tuple[str, ...]) -> str:
    """The reverse of `to_placeholders`."""
    if text.isascii():
        return text
    return re.sub(PLACEHOLDER, lambda match: f"<{known[ord(match[0]) - _FIRST]}>", text)
