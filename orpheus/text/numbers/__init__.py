"""Verbalizes numbers: a text → the text with its numbers in words of its language, for requests that ask for it.

The model reads most numbers correctly by itself; this is for those it does not. The words come from num2words. Digits
stay where it lacks the language (Hindi, Chinese) and where they are ambiguous: versions, dates. A number is read as a
whole, with its sign, scale and unit, or it is left as a whole.
"""

from __future__ import annotations

import re
from functools import lru_cache

from orpheus.text.math import read_arithmetic
from orpheus.text.numbers import codes, fractions, money, ordinals, plain, quantities, times
from orpheus.text.numbers.kind import BEGIN, CONTEXT_CHARS, Context, Kind, end
from orpheus.text.numbers.language import Language
from orpheus.text.numbers.languages import LANGUAGES

__all__ = ["MAX_NUMBERS", "is_within", "verbalize"]

# In a text; the rest stay digits, so that a text of nothing else takes some tens of milliseconds.
MAX_NUMBERS = 1_000

# The first that matches a whole number reads it.
_KINDS: dict[str, Kind] = {
    "code": codes,
    "time": times,
    "money": money,
    "quantity": quantities,
    "fraction": fractions,
    "ordinal": ordinals,
    "plain": plain,
}


_DIGITS_LAST, _LAST_WORD = re.compile(r"\d\)?\.?\s+\Z"), re.compile(r"\S{0,40}\Z")


@lru_cache
def _expression(language: Language) -> re.Pattern[str]:
    kinds = "|".join(f"(?P<{name}>{kind.pattern(language)})" for name, kind in _KINDS.items())
    return re.compile(rf"(?P<opening>{BEGIN})(?:{kinds}){end(language)}")


def verbalize(text: str, language: str) -> str:
    """`text` with its first MAX_NUMBERS numbers in words; unchanged for a language without rules."""
    rules = LANGUAGES.get(language)
    if rules is None:
        return text
    text = read_arithmetic(text, language, lambda number: not re.search(r"\d", _verbalize(number, rules)))
    return _verbalize(text, rules)


def _verbalize(text: str, language: Language) -> str:
    return _expression(language).sub(
        lambda match: match["opening"] + _words(match, language), text, count=MAX_NUMBERS
    )


def is_within(text: str, position: int, language: str) -> bool:
    """Whether `position` lies within a number that `verbalize` reads as one: "(555) |123-4567", "am 3. |Mai".

    Where `text` ends after digits, or in the middle of the word after them, it may.
    """
    rules = LANGUAGES.get(language)
    if rules is None:
        return False
    if _DIGITS_LAST.search(text, max(0, position - 8), position) and _LAST_WORD.match(text, position):
        return True
    start = text.rfind(" ", 0, max(0, position - CONTEXT_CHARS)) + 1
    for match in _expression(rules).finditer(text, start, position + CONTEXT_CHARS):
        if match.start() < position < match.end():
            return True
        if match[0].endswith(".") and match.end() < position and text[match.end() : position].isspace():
            return not _words(match, rules).endswith(".")  # of an ordinal, and not of the sentence
    return False


def _words(match: re.Match[str], language: Language) -> str:
    name = match.lastgroup or ""
    start, stop = match.span(name)
    text = match.string
    context = Context(text[max(0, start - CONTEXT_CHARS) : start], text[stop : stop + CONTEXT_CHARS])
    spoken = _KINDS[name].read(match[name], context, language)
    return match[name] if spoken is None else spoken
