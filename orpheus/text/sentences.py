"""The one judge of where sentences end, and what hangs on it: a block → sentences, a long sentence → parts.

`ends_sentence` decides about a full stop by the words on both sides of it (abbreviations.py). It is asked wherever text
is cut or a pause is chosen, for a complete text as for one that is being written. Lengths are in Latin characters
(`length`).
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from orpheus.text import abbreviations
from orpheus.text.abbreviations import Abbreviations, Kind
from orpheus.text.tags import PLACEHOLDER_CHARS, is_placeholder

MIN_CHARS = 20  # anything shorter is a fragment ("Hi.") and joins its neighbour, if it has one
MIN_CLAUSE_WORDS = 5  # of a clause that may be spoken before the rest of its sentence
WIDE_CHARS = 3  # a Chinese, Japanese or Korean character takes as long to say as three Latin ones
CLOSING = "\"')]\u201d\u2019\u00bb\u300d\u300f"  # after a stop, these still belong to its sentence

_WIDE_BLOCKS = (
    range(0x1100, 0x1200), range(0x2E80, 0x3000), range(0x3005, 0x3008), range(0x3040, 0x3100), range(0x3400, 0xA000),
    range(0xAC00, 0xD7B0), range(0xF900, 0xFB00), range(0x20000, 0x40000),
)  # fmt: skip
_STOPS = ".!?…؟۔։"  # a space follows
_WIDE_STOPS = "。！？．｡।॥።။។៕།༎"  # none need follow
_EMPHASIS = "*_`~"  # not yet removed from text that is being written
_AFTER_STOP = CLOSING + _EMPHASIS
_STOP_END = re.compile(
    rf"(?<![{_STOPS}])[{_STOPS}]++[{re.escape(_AFTER_STOP)}]*+(?=\s)"
    rf"|(?<![{_WIDE_STOPS}])[{_WIDE_STOPS}]++[{re.escape(_AFTER_STOP)}]*+"
    r"|(?<=[a-zß-ÿ]{2})[.!?](?=[A-ZÀ-Þ][a-zß-ÿ])"  # "the end.He left"
)
# Of a quotation or an aside, only the end can end a sentence, unless it is as long as several.
_ASIDE_CHARS = 300
_ASIDE = re.compile(
    rf"(?<![^\s(\[])\"(?=\S)[^\"\n]{{1,{_ASIDE_CHARS}}}\""
    + "".join(
        rf"|{re.escape(left)}[^{re.escape(left + right)}\n]{{1,{_ASIDE_CHARS}}}{re.escape(right)}"
        for left, right in ("()", "[]", "“”", "„“", "«»", "「」", "『』")
    )
)
_CANDIDATE = re.compile(f"{_ASIDE.pattern}|{_STOP_END.pattern}")
_SPACES = re.compile(r"\s*")
CLAUSE_END = re.compile(r"[,;:)\]]\s|\s-\s|[،؛፣፤၊、，；：]")
_EARLY_CLAUSE_CHARS = 200  # how far into a sentence an early clause may end

CONTEXT_CHARS = 40  # on each side of a stop, to judge it by
_OPENING = "\"'([“„«‘¿¡" + _EMPHASIS
_NEXT_WORD = re.compile(rf"\s*[{re.escape(_OPENING)}]*([^\W\d_]+['’]?)?")
# "No. 5", "Fig. II", "Fig. B"; but "No. I would not."
_NUMBER_AFTER = re.compile(r"\s*(?:[#nº°]{0,2}\d|[IVXLC]{2,}\b|[B-DF-HJ-NP-XZ]\b(?![.']))")
_LETTERS = re.compile(r"(?:[^\W\d_]{1,2}\.-?)+[^\W\d_]{1,2}")  # U.S, a.k.a, Ph.D, J.-J
_GOES_ON = re.compile(r"\d$|://|@|^www\b", re.IGNORECASE)  # "$3." may become "$3.50", "www.a." an address
_UNIT = re.compile(r"\d ?[^\W\d_]{1,4}$")  # "5 ft. tall"
_ROMAN = re.compile("[IVXLCDM]+")  # Ludwig XIV
_INSIDE_WORD = re.compile(r"[-/'’]|(?<=[\u3040-\u9fff\uac00-\ud7af])(?=[A-Za-z])")  # l'av, 见到了Dr
_SPACED_CHARS = _SUFFIX_CHARS = 3
_SPACED = re.compile(r"(?:(?<![^\s(\[\"'„“«])[^\W\d_]{1,3}\.\s?){1,3}[^\W\d_]+$")  # z. B
_CONSONANTS = re.compile(r"[A-Z][b-df-hj-np-tv-xz]+")  # Cmdr, Blvd: an abbreviation that no table has
_BOUNDARY_CHARS = 16  # looked through for a better place to cut where there is no space
_INSIDE_NUMBER = re.compile(r"(?<=\d)[.,:]?\d|(?<=\d[.,:])\d")
_NUMBER = re.compile(r"[(\[+-]?[$€£¥₹]?\d")
_JOINED_NUMBER = re.compile(r"\d[,;:)%]*\s?-?$")
_DATE_BEFORE, _DATE_AFTER = re.compile(r"\d\s(?:de|of)$"), re.compile(r"(?:de|of)\s\d")
_ITEM_NUMBER_DIGITS = 2
_ORDINAL_DIGITS = 3
_DATE = re.compile(r"\d\. ?\d+$")  # 2024. 5. 3
_LOOKAHEAD_CHARS = 4  # the quotes and brackets after a stop
_ITEMS_CHARS = 300  # between the numbers of "1. Milk 2. Bread"
_QUOTED_ON = ("と", "って")  # Japanese: the sentence goes on after what was said


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


def ends_sentence(text: str, offset: int, language: str) -> bool | None:
    """Whether the stop before `offset` (and before the spaces there) ends a sentence; False if there is no stop.

    None at the end of the text if words that may yet come decide it: "at 7 a.m." goes on with "Monday" or "Then".
    """
    before = text[max(0, offset - CONTEXT_CHARS) : offset].rstrip()
    unquoted = before.rstrip(_AFTER_STOP)
    sentence = unquoted.rstrip(_STOPS + _WIDE_STOPS)
    stop = unquoted[len(sentence) :]
    if not stop:
        return False
    if stop[-1] in _WIDE_STOPS:
        return unquoted == before or not text.startswith(_QUOTED_ON, offset)
    following = _following(text, offset)
    if following.word[:1].islower() and (stop != "." or unquoted != before):
        return False
    last = sentence.rsplit(None, 1)[-1].lstrip(_OPENING) if stop == "." and sentence.strip() else ""
    if not last:
        return True
    tables = abbreviations.of(language)
    if offset == len(text) and text.endswith(".") and _GOES_ON.search(last):
        return None
    if last.isdecimal():
        return _ends_after_number(text, offset, last, sentence, following, tables)
    match _kind(last, sentence, following, tables):
        case Kind.TITLE:
            return False
        case Kind.SHORTENED:
            return _next_begins(following, tables)
        case Kind.NUMBERED:
            begins = _starts_after(sentence[: -len(last)].rstrip(_OPENING + " \n"), tables)
            if last[0].isupper() and not begins:  # "the No. nine bus", but "No. Nine of them left."
                return _next_begins(following, tables)
            return not following.number if following.known or begins else None
        case None:
            return True


class _Following(NamedTuple):
    """What comes after a stop."""

    word: str  # "" if no letter comes next
    known: bool  # whether more text leaves it as it is
    number: bool  # a number, as after "No."
    initial: bool  # a word with a full stop of its own


_NUMBER_FOLLOWS = _Following(word="", known=True, number=True, initial=False)


def _following(text: str, offset: int) -> _Following:
    match = _NEXT_WORD.match(text, offset)
    word = match[1] or "" if match else ""
    end = match.end() if match else offset
    return _Following(
        word,
        end < len(text),
        bool(_NUMBER_AFTER.match(text, offset)),
        bool(word) and text.startswith(".", end),
    )


def _kind(last: str, sentence: str, following: _Following, tables: Abbreviations) -> Kind | None:
    """What the last word of `sentence` is; None for an ordinary one."""
    names = [last]
    if len(last) <= _SPACED_CHARS and (spaced := _SPACED.search(sentence)):
        names.append("".join(spaced[0].split()))
    if len(pieces := _INSIDE_WORD.split(last)) > 1:
        names.append(pieces[-1])
    if len(last) > _SUFFIX_CHARS:
        names.append("-" + last[-_SUFFIX_CHARS:])
    for name in names:
        for spelling in (name, name.lower(), name.capitalize() if name.isupper() else name):
            if kind := tables.kinds.get(spelling):
                return kind
    if last in tables.halves:  # of "p. ex.", "EE. UU."
        both = f"{last}.{following.word}"
        if not following.known and any(name.startswith(both) for name in tables.kinds):
            return Kind.SHORTENED
        if both in tables.kinds:
            return Kind.TITLE
    core = pieces[-1] if pieces[-1][:1].isupper() else last  # of "l'U.E", not of "it's"
    if len(core) == 1 and core.lower() != core.upper():
        inside = following.initial and len(following.word) == 1
        return Kind.TITLE if inside else Kind.SHORTENED  # "J. R. Smith", "Plan B. Then"
    if _LETTERS.fullmatch(core) or (tables.ordinals and _ROMAN.fullmatch(core)):
        return Kind.SHORTENED
    if following.word[:1].islower() and _UNIT.search(sentence):
        return Kind.SHORTENED
    unknown = _CONSONANTS.fullmatch(last) and following.word[:1].isupper()
    return Kind.SHORTENED if unknown else None


def _next_begins(following: _Following, tables: Abbreviations) -> bool | None:
    """Whether the next word begins a sentence, and is no name."""
    word = following.word.lower().replace("’", "'")
    begins = following.word[:1].isupper() and bool({word, word.rstrip("'")} & tables.starting)
    return begins if following.known else None if begins or not following.word else False


def _ends_after_number(
    text: str, offset: int, number: str, sentence: str, following: _Following, tables: Abbreviations
) -> bool | None:
    if len(number) <= _ITEM_NUMBER_DIGITS and _is_item(text[:offset].rstrip(), int(number), sentence, tables):
        return False  # "1. Milk 2. Bread"
    if tables.ordinals and len(number) <= _ORDINAL_DIGITS:
        return _next_begins(following, tables)
    return not tables.dates or not (following.number or _DATE.search(sentence))


def _is_item(text: str, number: int, sentence: str, tables: Abbreviations) -> bool:
    """Whether the number at the end of `text` counts an item: of a list, whose first begins a sentence."""
    at = len(text) - len(f"{number}.")
    before = sentence[: -len(str(number))]
    while not _starts_after(before.rstrip(_OPENING + " \n"), tables):
        number -= 1
        at = text.rfind(f"{number}. ", max(0, at - _ITEMS_CHARS), at)
        if at < 0 or text[at - 1 : at].isalnum():
            return False
        before = text[max(0, at - CONTEXT_CHARS) : at]
    return True


def _starts_after(before: str, tables: Abbreviations) -> bool:
    """Whether a sentence, or an item of a list, begins after `before`."""
    if not before.endswith("."):
        return not before or before[-1] in ":!?"
    last = before[:-1].rsplit(None, 1)[-1:]
    return bool(last) and not last[0].isdecimal() and not _kind(last[0], before[:-1], _NUMBER_FOLLOWS, tables)


def can_cut(text: str, offset: int, language: str) -> bool:
    """Whether the words before and after `offset` may be said apart.

    A number stays with its neighbours, an abbreviation or an initial with what follows.
    """
    before = text[max(0, offset - CONTEXT_CHARS) : offset].rstrip()
    after = text[offset : offset + CONTEXT_CHARS].lstrip()
    unquoted = before.rstrip(_AFTER_STOP)
    if unquoted.endswith(".") and not unquoted.endswith(".."):
        return unquoted != before or ends_sentence(text, offset, language) is True
    if _NUMBER.match(after):
        return before.endswith(tuple(",;:)]-")) and not _JOINED_NUMBER.search(before)
    if before[-1:].isdecimal():
        return not _NUMBER.match(before.rsplit(None, 1)[-1])
    return not (_DATE_AFTER.match(after) or _DATE_BEFORE.search(before))


def split_sentences(block: str, language: str, searched: int = 0) -> Iterator[str]:
    """The sentences of a block, fragments together with the next sentence. Concatenated they are the block.

    Of a block that grew since none was found in its first `searched` characters, only the rest is judged.
    """
    start = 0
    for candidate in _CANDIDATE.finditer(block):
        end = _SPACES.match(block, candidate.end()).end()  # type: ignore[union-attr]
        if end == len(block):
            break
        if (
            end + CONTEXT_CHARS > searched
            and ends_sentence(block, end, language)
            and (end - start >= MIN_CHARS or length(block[start:end]) >= MIN_CHARS)
        ):
            yield block[start:end]
            start = end
    yield block[start:]


def split_long(sentence: str, max_chars: int, language: str) -> Iterator[str]:
    """Parts of at most `max_chars` (by `length`), spaces included. Concatenated they are the sentence.

    Each ends at the last sentence end that fits, else at a clause end, else at a space (one that parts no number from
    its words, if there is one), else anywhere.
    """
    start, min_chars = 0, min(MIN_CHARS, max_chars // 3)
    while (end := _longest_end(sentence, start, max_chars)) < len(sentence):
        if len(sentence) - min_chars > (start + end) // 2:  # leave no fragment for the last part
            end = min(end, len(sentence) - min_chars)
        end = _last_cut(sentence, start, end, min_chars, language)
        yield sentence[start:end]
        start = end
    yield sentence[start:]


def _last_cut(sentence: str, start: int, end: int, min_chars: int, language: str) -> int:
    """The best place to cut in `sentence[start:end]`, for a part of more than `min_chars`."""
    middle = start + (end - start) // 3
    cuts = [
        stop
        for match in _STOP_END.finditer(sentence, start, end + _LOOKAHEAD_CHARS)
        if middle < (stop := match.end() + sentence.startswith(" ", match.end())) <= end
        and ends_sentence(sentence, stop, language)
    ] or [
        match.end()
        for match in CLAUSE_END.finditer(sentence, start, end)
        if match.end() > middle and can_cut(sentence, match.end(), language)
    ]
    if cuts:
        return cuts[-1]
    last_space = space = sentence.rfind(" ", start + min_chars, end) + 1
    while space:
        if can_cut(sentence, space, language):
            return space
        space = sentence.rfind(" ", start + min_chars, space - 1) + 1
    return last_space or _character_boundary(sentence, start, end)


def early_clause_end(sentence: str, language: str) -> int:
    """Where the first clause ends that can stand alone and leaves more than a fragment; 0 if there is none."""
    for match in CLAUSE_END.finditer(sentence, 0, _EARLY_CLAUSE_CHARS):
        clause, rest = sentence[: match.end()].rstrip(), sentence[match.end() :][:MIN_CHARS]
        if length(rest) < MIN_CHARS:
            break
        if (
            count_words(clause) >= MIN_CLAUSE_WORDS
            and length(clause) >= MIN_CHARS
            and can_cut(sentence, match.end(), language)
        ):
            return match.end()
    return 0


def _longest_end(text: str, start: int, max_chars: int) -> int:
    """The end of the longest part from `start` whose length is at most `max_chars`."""
    window = text[start : start + max_chars]
    if window.isascii():
        return start + len(window)
    return start + max(1, bisect_right(list(accumulate(map(_character_length, window))), max_chars))


def _character_boundary(text: str, start: int, end: int) -> int:
    """`end`, or a little less if that would separate digits, or a letter from its combining marks (a Hindi vowel)."""
    for index in range(end, max(start, end - _BOUNDARY_CHARS), -1):
        mark = unicodedata.category(text[index]).startswith("M") or text[index] in "\u200c\u200d"
        if not mark and not _INSIDE_NUMBER.match(text, index):
            return index
    return end
