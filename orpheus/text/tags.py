"""Text with `<tags>` → text in which each tag the voice knows is one private character, and the count of the rest.

Knows nothing of sentences: one character is what keeps them from being cut inside a tag.
"""

from __future__ import annotations

import re

# What each released checkpoint was tuned on (Orpheus-TTS, multilingual release notes); Hindi has none yet.
# <giggle> is from orpheus-tts-local: the English checkpoint follows it.
TAGS: dict[str, tuple[str, ...]] = {
    "en": ("laugh", "chuckle", "sigh", "cough", "sniffle", "groan", "yawn", "gasp", "giggle"),
    "fr": ("chuckle", "cough", "gasp", "groan", "laugh", "sigh", "sniffle", "whimper", "yawn"),
    "de": ("chuckle", "cough", "gasp", "groan", "laugh", "sigh", "sniffle", "yawn"),
    "es": ("groan", "chuckle", "gasp", "resoplido", "laugh", "yawn", "cough"),
    "it": ("sigh", "laugh", "cough", "sniffle", "groan", "yawn", "gemito", "gasp"),
    "ko": ("한숨", "헐", "헛기침", "훌쩍", "하품", "낄낄", "신음", "작은 웃음", "기침", "으르렁"),
    "zh": ("嬉笑", "轻笑", "呻吟", "大笑", "咳嗽", "抽鼻子", "咳"),
    "hi": (),
}
_ALL = sorted({tag for tags in TAGS.values() for tag in tags})
_FIRST_MARK = 0xE000  # private use, which no cleaned text holds
_MARKS = {tag: chr(_FIRST_MARK + number) for number, tag in enumerate(_ALL)}
_WRITTEN = {mark: f"<{tag}>" for tag, mark in _MARKS.items()}
MARK = f"[{chr(_FIRST_MARK)}-{chr(_FIRST_MARK + len(_ALL) - 1)}]"  # of a regular expression
MARK_CHARS = max(map(len, _WRITTEN.values()))  # what a mark counts in a segment's length
is_mark = re.compile(MARK).search

_ATTRIBUTE = r"""\s[\w:.-]{1,40}\s?=\s?(?:"[^"<>]{0,200}"|'[^'<>]{0,200}'|[^\s"'<>=]{1,200})"""
# A name follows the bracket at once, so "a < b > c" and "x<y and z>w" are no tags, nor is "1 <2> 3".
_TAG = re.compile(rf" ?<(?P<name>/?[^\W\d][\w:.-]{{0,40}}|작은 웃음)(?P<rest>(?:{_ATTRIBUTE}){{0,10}}\s?/?)>")


def mark(text: str, language: str) -> tuple[str, int]:
    """`text` with its tags as marks, and how many tags of no meaning to `language` were taken out."""
    known = TAGS.get(language, ())
    removed = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal removed
        name, before = match["name"].lower(), match[0][0] == " "
        follows = text[match.end() : match.end() + 1]
        if name in known and not match["rest"]:
            before = before or text[match.start() - 1 : match.start()].isalnum()
            return " " * before + _MARKS[name] + " " * follows.isalnum()
        removed += 1
        return "" if follows in tuple(".,;:!?") else " "

    return _TAG.sub(replace, text), removed


def unmark(text: str) -> str:
    """The marks written out again."""
    return text if text.isascii() else re.sub(MARK, lambda match: _WRITTEN[match[0]], text)
