"""Splits a block of text into sentences, and a long sentence where a speaker would breathe.

Sentence boundaries come from sentencex, with the abbreviations it lacks. Lengths are in Latin characters (`length`).
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

import sentencex

from orpheus.text.tags import PLACEHOLDER_CHARS, is_placeholder

MIN_CHARS = 20  # anything shorter is a fragment ("Hi.") and joins its neighbour, if it has one
MIN_CLAUSE_WORDS = 5  # of a clause that may be spoken before the rest of its sentence
WIDE_CHARS = 3  # a Chinese, Japanese or Korean character takes as long to say as three Latin ones

_WIDE_BLOCKS = (
    range(0x1100, 0x1200), range(0x2E80, 0x3000), range(0x3005, 0x3008), range(0x3040, 0x3100), range(0x3400, 0xA000),
    range(0xAC00, 0xD7B0), range(0xF900, 0xFB00), range(0x20000, 0x40000),
)  # fmt: skip
_TERMINATOR = re.compile(r"[.!?。．！？।॥؟۔]")
# sentencex has no abbreviations for French and few for Spanish and Italian.
_ABBREVIATIONS = {
    "en": "Rev|Gen|Sen|Rep|Gov|Capt|Lt|Col|Sgt|Mt|Ft|approx|est|vol|pp|fig|i\\.e|e\\.g",
    "fr": "M|MM|Mme|Mmes|Mlle|Dr|Pr|Me|St|Ste|av|bd|env|p|pp|vol|chap|fig|cf|p\\. ex|J\\.-C|[A-Z]",
    "de": "z|z\\. ?B|d\\. ?h|u\\. ?a|Dr|Prof|Hr|Fr|Nr|Str|bzw|ca|vgl|evtl|inkl",
    "es": "Sr|Sra|Srta|Sres|Dr|Dra|D|Dña|Ud|Uds|Vd|Prof|Ing|Lic|pág|núm|tel|p\\. ej|[A-Z]",
    "it": "Sig|Sig\\.ra|Sigg|Dott|Dott\\.ssa|Prof|Prof\\.ssa|Ing|Avv|On|pag|art|n|es|[A-Z]",
}
_ABBREVIATION = {
    language: re.compile(rf"(?:^|[\s(\"'-])(?:{names})\.$") for language, names in _ABBREVIATIONS.items()
}
_SENTENCE_END = re.compile(r"[.!?।॥؟]+[\"')\]]*\s|[。！？][」』”\"')\]]*\s?")
CLAUSE_END = re.compile(r"[,;:)\]]\s|\s-\s|[،、，；：]")
_EARLY_CLAUSE_CHARS = 200  # how far into a sentence an early clause may end
# sentencex takes 0.1 s for 5,000 tiny sentences at once, and much less for the same in parts.
_WINDOW_CHARS = 2_000


class _Lengths(dict[str, int]):
    """Character → length; filled as characters are met."""

    def __missing__(self, character: str) -> int:
        wide = any(ord(character) in block for block in _WIDE_BLOCKS)
        self[character] = chars = (
            WIDE_CHARS if wide else PLACEHOLDER_CHARS if is_placeholder(character) else 1
        )
        return chars


_character_length = _Lengths().__getitem__


def length(text: str) -> int:
    """How long `text` takes to say, in Latin characters."""
    return len(text) if text.isascii() else sum(map(_character_length, text))


def count_words(text: str) -> int:
    """An estimate; two wide characters count as one word."""
    return text.count(" ") + 1 + (length(text) - len(text)) // (2 * (WIDE_CHARS - 1))


def split_sentences(block: str, language: str) -> Iterator[str]:
    """The sentences of a block, fragments together with the next sentence. Concatenated they are the block."""
    if not _TERMINATOR.search(block, 0, len(block) - 1):
        yield block
        return
    abbreviation = _ABBREVIATION.get(language)
    sentence = ""
    for candidate in _sentencex(block, language):
        sentence += candidate
        if length(sentence) < MIN_CHARS:
            continue
        ends = not abbreviation or not abbreviation.search(sentence[-20:].rstrip())
        if ends or len(sentence) > _WINDOW_CHARS:
            yield sentence
            sentence = ""
    if sentence:
        yield sentence


def _sentencex(block: str, language: str) -> Iterator[str]:
    """The sentences that sentencex finds, given one window of the block at a time."""
    start = 0
    while start < len(block):
        window = block[start : start + _WINDOW_CHARS]
        found: list[str] = list(sentencex.segment(language, window))
        if len(found) > 1 and start + len(window) < len(block):
            found.pop()  # may be cut off by the window, so the next window begins with it
        yield from found
        start += sum(map(len, found))


def split_long(sentence: str, max_chars: int) -> Iterator[str]:
    """Parts of at most `max_chars` (by `length`), spaces included. Concatenated they are the sentence.

    Each ends at the last sentence end that fits, else at a clause end, else at a space, else anywhere.
    """
    start, min_chars = 0, min(MIN_CHARS, max_chars // 3)
    while (end := _longest_end(sentence, start, max_chars)) < len(sentence):
        if len(sentence) - min_chars > (start + end) // 2:  # leave no fragment for the last part
            end = min(end, len(sentence) - min_chars)
        middle = start + (end - start) // 3
        window = sentence[start:end]
        for expression in (_SENTENCE_END, CLAUSE_END):
            ends = [start + match.end() for match in expression.finditer(window)]
            if ends and ends[-1] > middle:
                end = ends[-1]
                break
        else:
            space = sentence.rfind(" ", start, end) + 1
            end = space if space > start + min_chars else _character_boundary(sentence, start, end)
        yield sentence[start:end]
        start = end
    yield sentence[start:]


def early_clause_end(sentence: str) -> int:
    """Where the first clause ends that can stand alone and leaves more than a fragment; 0 if there is none."""
    for match in CLAUSE_END.finditer(sentence, 0, _EARLY_CLAUSE_CHARS):
        clause, rest = sentence[: match.end()].rstrip(), sentence[match.end() :][:MIN_CHARS]
        if length(rest) < MIN_CHARS:
            break
        if count_words(clause) >= MIN_CLAUSE_WORDS and length(clause) >= MIN_CHARS:
            return match.end()
    return 0


def _longest_end(text: str, start: int, max_chars: int) -> int:
    """The end of the longest part from `start` whose length is at most `max_chars`."""
    window = text[start : start + max_chars]
    if window.isascii():
        return start + len(window)
    return start + max(1, bisect_right(list(accumulate(map(_character_length, window))), max_chars))


def _character_boundary(text: str, start: int, end: int) -> int:
    """`end`, or a little less if that would separate a letter from its combining marks (a Hindi vowel sign)."""
    for index in range(end, max(start, end - 8), -1):
        if not unicodedata.category(text[index]).startswith("M") and text[index] not in "\u200c\u200d":
            return index
    return end
