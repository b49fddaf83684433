"""Emotion tags: a text with `<tags>` → the text with a one-character placeholder for each tag the model knows.

A placeholder is a private-use character, so no later stage can split or rewrite a tag. Unknown tags are removed and
counted.
"""

from __future__ import annotations

import re

# The tags each published model was tuned on (Orpheus-TTS, multilingual release notes); Hindi has none yet.
# <giggle> comes from orpheus-tts-local: the English model follows it.
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
_FIRST = 0xE000  # start of the private use area, which characters.normalize removes from the input
_PLACEHOLDERS = {tag: chr(_FIRST + number) for number, tag in enumerate(_ALL)}
_TAGS_BY_PLACEHOLDER = {placeholder: f"<{tag}>" for tag, placeholder in _PLACEHOLDERS.items()}
PLACEHOLDER = f"[{chr(_FIRST)}-{chr(_FIRST + len(_ALL) - 1)}]"  # as part of a regular expression
PLACEHOLDER_CHARS = max(map(len, _TAGS_BY_PLACEHOLDER.values()))  # what one adds to a segment's length
is_placeholder = re.compile(PLACEHOLDER).search

ATTRIBUTE = r"""\s[\w:.-]{1,40}\s?=\s?(?:"[^"<>]{0,200}"|'[^'<>]{0,200}'|[^\s"'<>=]{1,200})"""
# The name follows the bracket at once, so "a < b > c", "x<y and z>w" and "1 <2> 3" contain no tags.
_TAG = re.compile(rf" ?<(?P<name>/?[^\W\d][\w:.-]{{0,40}}|작은 웃음)(?P<rest>(?:{ATTRIBUTE}){{0,10}}\s?/?)>")


def to_placeholders(text: str, language: str) -> tuple[str, int]:
    """`text` with placeholders for the tags of `language`, and how many other tags were removed."""
    known = TAGS.get(language, ())
    removed = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal removed
        name, before = match["name"].lower(), match[0][0] == " "
        follows = text[match.end() : match.end() + 1]
        if name in known and not match["rest"]:
            before = before or text[match.start() - 1 : match.start()].isalnum()
            return " " * before + _PLACEHOLDERS[name] + " " * follows.isalnum()
        removed += 1
        return "" if follows in tuple(".,;:!?") else " "

    return _TAG.sub(replace, text), removed


def from_placeholders(text: str) -> str:
    """The reverse of `to_placeholders`."""
    return text if text.isascii() else re.sub(PLACEHOLDER, lambda match: _TAGS_BY_PLACEHOLDER[match[0]], text)
