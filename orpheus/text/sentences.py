"""A block of text → its sentences, and a long sentence → parts cut where a speaker would breathe.

Knows nothing of Markdown or of segments. Boundaries come from sentencex; ours are the abbreviations it lacks.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

import sentencex

from orpheus.text.tags import MARK_CHARS, is_mark

FEW_CHARS = 20  # less than this is a fragment ("Hi.") and is spoken with its neighbour where there is one
FEW_WORDS = 5  # of a clause that may be spoken before the rest of its sentence
WIDE_CHARS = 3  # a Chinese, Japanese or Korean character is spoken as long as three Latin ones

_WIDE = (
    range(0x1100, 0x1200), range(0x2E80, 0x3000), range(0x3005, 0x3008), range(0x3040, 0x3100), range(0x3400, 0xA000),
    range(0xAC00, 0xD7B0), range(0xF900, 0xFB00), range(0x20000, 0x40000),
)  # fmt: skip
_MAY_END = re.compile(r"[.!?。．！？।॥؟۔]")
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
_EARLY_CHARS = 200  # where an early clause is looked for
_MOST_AT_ONCE = (
    2_000  # sentencex takes 0.1 s for 5,000 tiny sentences at once, and much less for them in parts
)


class _Lengths(dict[str, int]):
    """Of a character; decided once for each."""

    def __missing__(self, character: str) -> int:
        wide = any(ord(character) in block for block in _WIDE)
        self[character] = chars = WIDE_CHARS if wide else MARK_CHARS if is_mark(character) else 1
        return chars


_length_of = _Lengths().__getitem__


def length(text: str) -> int:
    """How long a text takes to say, in Latin characters."""
    return len(text) if text.isascii() else sum(map(_length_of, text))


def words(text: str) -> int:
    """About how many words; two of the wide characters count as one."""
    return text.count(" ") + 1 + (length(text) - len(text)) // (2 * (WIDE_CHARS - 1))


def sentences(block: str, language: str) -> Iterator[str]:
    """The sentences of a block, tiny ones together with the next; joined they are the block."""
    if not _MAY_END.search(block, 0, len(block) - 1):
        yield block
        return
    abbreviation = _ABBREVIATION.get(language)
    held = ""
    for sentence in _segments(block, language):
        held += sentence
        if length(held) < FEW_CHARS:
            continue
        if not abbreviation or len(held) > _MOST_AT_ONCE or not abbreviation.search(held[-20:].rstrip()):
            yield held
            held = ""
    if held:
        yield held


def _segments(block: str, language: str) -> Iterator[str]:
    """What sentencex makes of a block, some of it at a time."""
    start = 0
    while start < len(block):
        window = block[start : start + _MOST_AT_ONCE]
        found: list[str] = list(sentencex.segment(language, window))
        if len(found) > 1 and start + len(window) < len(block):
            found.pop()  # its end is the window's: it is looked at again, with what follows
        yield from found
        start += sum(map(len, found))


def cut(sentence: str, most: int) -> Iterator[str]:
    """Parts of at most `most` (by `length`), with the spaces between them; joined they are the sentence.

    At the last end of a sentence that fits, else of a clause, else at a space, else anywhere.
    """
    start, few = 0, min(FEW_CHARS, most // 3)
    while (end := _reach(sentence, start, most)) < len(sentence):
        if len(sentence) - few > (start + end) // 2:  # leaves no fragment for the last part
            end = min(end, len(sentence) - few)
        middle = start + (end - start) // 3
        window = sentence[start:end]
        for expression in (_SENTENCE_END, CLAUSE_END):
            ends = [start + match.end() for match in expression.finditer(window)]
            if ends and ends[-1] > middle:
                end = ends[-1]
                break
        else:
            space = sentence.rfind(" ", start, end) + 1
            end = space if space > start + few else _between_letters(sentence, start, end)
        yield sentence[start:end]
        start = end
    yield sentence[start:]


def early_clause(sentence: str) -> int:
    """Where a long sentence's first clause ends that can stand alone, leaving more than a fragment; 0 if none."""
    for match in CLAUSE_END.finditer(sentence, 0, _EARLY_CHARS):
        clause, rest = sentence[: match.end()].rstrip(), sentence[match.end() :][:FEW_CHARS]
        if length(rest) < FEW_CHARS:
            break
        if words(clause) >= FEW_WORDS and length(clause) >= FEW_CHARS:
            return match.end()
    return 0


def _reach(text: str, start: int, most: int) -> int:
    """The end of the longest part from `start` that is no longer than `most`."""
    window = text[start : start + most]
    if window.isascii():
        return start + len(window)
    return start + max(1, bisect_right(list(accumulate(map(_length_of, window))), most))


def _between_letters(text: str, start: int, end: int) -> int:
    """`end`, or a little before it where it would part a letter from its marks (a Hindi vowel sign)."""
    for index in range(end, max(start, end - 8), -1):
        if not unicodedata.category(text[index]).startswith("M") and text[index] not in "\u200c\u200d":
            return index
    return end
