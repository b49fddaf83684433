"""What the kinds of numbers have in common.

Each kind is a module with `pattern(language)`, a regular expression without groups that captures, and
`read(text, context, language)`: what it matched in words, or None to leave it as it is. The pattern is matched from
the beginning of a word, and must end where one may: what no kind understands as a whole stays whole.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from orpheus.text.numbers.language import Language
from orpheus.text.tags import PLACEHOLDER


class Context(NamedTuple):
    """Some characters of the text around a number."""

    before: str
    after: str

    def follows(self, expression: str) -> bool:
        """Whether the word before matches."""
        return re.search(rf"(?:^|[\s(\"'-])(?i:{expression}) $", self.before) is not None

    def precedes(self, expression: str) -> bool:
        """Whether the word after matches."""
        return bool(expression) and re.match(rf" (?:{expression})", self.after) is not None


class Kind(Protocol):
    def pattern(self, language: Language) -> str: ...

    def read(self, text: str, context: Context, language: Language) -> str | None: ...


def unnamed(expression: str) -> str:
    """`expression` without groups that capture, as a part of the one of all kinds."""
    return re.sub(r"\(\?P<\w+>", "(?:", expression)


CONTEXT_CHARS = 40
_CLOSING = rf"[.,;:!?)\]}}\"'*。，、！？」』{PLACEHOLDER[1:-1]}]"
_OPENING = rf"[(\[{{\"'*¿¡「『{PLACEHOLDER[1:-1]}]"
# "(555) 123-4567" begins with its bracket. A number may follow a word and a hyphen: "COVID-19".
BEGIN = rf"(?:(?<!\S)|(?<=\.\.\.))(?:(?!\(\d{{2,4}}\) ?\d|'\d\d){_OPENING}){{0,8}}(?:[^\W\d_]{{1,30}}-)?"
_END = rf"{_CLOSING}{{0,8}}(?:\s|\Z)|\.\.\.|-(?=[^\W\d_])[^\s\d]{{0,40}}(?:\s|\Z)|'s\b"
_KOREAN_PARTICLE = "[가-힣]"  # follows without a space


def end(language: Language) -> str:
    """A regular expression of where a number may end."""
    return rf"(?={_END}|{_KOREAN_PARTICLE})" if language.code == "ko" else rf"(?={_END})"
