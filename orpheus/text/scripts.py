"""Leaves out words in letters that a language's model cannot speak: a text → the text without them, and their count.

A model that meets a script it was not trained on stays silent or stumbles over the words that follow. Latin letters
with any diacritic are kept in every language, so that names are ("Łukasz", "Nguyễn"). A Greek letter that stands by
itself is a symbol and is read by its name; digits of any script become 0 to 9.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache

from orpheus.errors import BadRequest
from orpheus.languages import LANGUAGES, name_of, scripts_of
from orpheus.text import characters
from orpheus.text.sentences import length
from orpheus.text.tags import is_placeholder
from orpheus.voices import PUBLISHED_MODELS

# Latin letters are read in every language, and with its own script the marks that stand above others' letters.
_LATIN = frozenset({"LATIN", "MODIFIER", "FEMININE", "MASCULINE", "MICRO", "OHM", "SUPERSCRIPT", "SUBSCRIPT"})
_NUMBER_SIGNS = ("SUPERSCRIPT", "SUBSCRIPT", "VULGAR", "FRACTION")  # ², ½: read in every language
_KANA = re.compile("[ぁ-ゖァ-ヺ]")
_HAN = re.compile("[\u3400-\u9fff]")
_SENTENCE = re.compile(r"[^。！？!?\n]+")

# Punctuation of other scripts, for a language whose own texts do not have it.
_WIDE_PUNCTUATION = dict(
    zip("，、。．！？；：（）【】〔〕［］「」『』《》〈〉・‧", ',,..!?;:()()()()""""""""  ', strict=True)
)
_DANDAS = {"।": ".", "॥": "."}
_OTHERS = {
    "ARABIC": "،؛؟۔٪٫٬", "ARMENIAN": "։", "ETHIOPIC": "።፣፤፥", "MYANMAR": "၊။", "KHMER": "។៕", "TIBETAN": "།༎",
}  # fmt: skip
_PUNCTUATION = dict(zip("".join(_OTHERS.values()) + "·", ",;?.%.,..,;:,..... ", strict=True))
_INDIC = (
    "DEVANAGARI",
    "BENGALI",
    "GURMUKHI",
    "GUJARATI",
    "ORIYA",
    "TAMIL",
    "TELUGU",
    "KANNADA",
    "MALAYALAM",
    "SINHALA",
)
_KEPT_PUNCTUATION = (  # by script
    _OTHERS
    | dict.fromkeys(("CJK", "HIRAGANA", "HANGUL"), "".join(_WIDE_PUNCTUATION))
    | dict.fromkeys(_INDIC, "".join(_DANDAS))
)
_NO_JOINERS = frozenset({"CJK", "HANGUL", "CYRILLIC", "GREEK", "HEBREW"})
_UNSPACED_STOP = re.compile(r"([，、。．！？；：،؛؟۔։።।])(?=[^\W\d_])")
_UNSPACED_LANGUAGES = ("zh", "yue", "ja", "ko")

_GREEK = {letter: index for index, letter in enumerate("αβγδεζηθικλμνξοπρστυφχψω")} | {"ς": 17}
_GREEK_NAMES = {
    "en": "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon "
    "phi chi psi omega",
    "fr": "alpha bêta gamma delta epsilon zêta êta thêta iota kappa lambda mu nu xi omicron pi rhô sigma tau upsilon "
    "phi khi psi oméga",
    "de": "Alpha Beta Gamma Delta Epsilon Zeta Eta Theta Iota Kappa Lambda My Ny Xi Omikron Pi Rho Sigma Tau Ypsilon "
    "Phi Chi Psi Omega",
    "es": "alfa beta gamma delta épsilon zeta eta theta iota kappa lambda mi ni xi ómicron pi ro sigma tau ípsilon "
    "fi ji psi omega",
    "it": "alfa beta gamma delta epsilon zeta eta theta iota kappa lambda mi ni xi omicron pi rho sigma tau ypsilon "
    "phi chi psi omega",
    "ko": "알파 베타 감마 델타 엡실론 제타 에타 세타 요타 카파 람다 뮤 뉴 크시 오미크론 파이 로 시그마 타우 입실론 "
    "피 카이 프시 오메가",
    "hi": "अल्फ़ा बीटा गामा डेल्टा एप्सिलॉन ज़ीटा ईटा थीटा आयोटा कप्पा लैम्डा म्यू न्यू ज़ाई ओमिक्रॉन पाई रो सिग्मा टाऊ "
    "अप्सिलॉन फ़ाई काई साई ओमेगा",
    "zh": "阿尔法 贝塔 伽马 德尔塔 艾普西隆 泽塔 伊塔 西塔 约塔 卡帕 兰姆达 缪 纽 克西 奥密克戎 派 柔 西格玛 陶 "
    "宇普西隆 斐 希 普西 欧米伽",
}
_GREEK_WORD = re.compile(r"[Ͱ-Ͽἀ-῿]+")
_GREEK_RUN = re.compile(r"[Ͱ-Ͽἀ-῿]+(?:[^\w\n]+[Ͱ-Ͽἀ-῿]+)*")
# Greek letters that are signs of units stay as they are: 5 μm, 10 kΩ.
_MICRO, _OHM = re.compile(r"μ(?=[A-Za-z]{1,3}\b)"), re.compile(r"(?<=[\dkM])( ?)Ω(?!\w)")

# Letters of other alphabets that look Latin, in a word that is otherwise Latin: a slip or a disguise ("pаypal").
_HOMOGLYPHS = str.maketrans("АВЕЅІЈКМНОРСТХаеѕіјорсхуο", "ABESIJKMHOPCTXaesijopcxyo")
_MIXED_WORD = re.compile(rf"(?<!\w)[A-Za-z{''.join(map(chr, _HOMOGLYPHS))}]{{1,40}}(?!\w)")

_GAP = "\x1f"  # stands for a letter that is left out; characters.normalize removes it from the input
_OPENING, _CLOSING, _QUOTES = "([{（【「『《〈", ")]}）】」』》〉", "\"'"
_STOPS, _COMMAS = ".!?。．！？।॥؟۔", ",;:，、；："
_GLUE_CHARS = " \t" + _STOPS + _COMMAS + "-/&+=@#*~|·・"  # beside or between words that are left out
_GLUE = f"[{re.escape(_GLUE_CHARS)}]"
_GAPS = re.compile(rf"{_GAP}(?:(?:{_GLUE}|\d|'s\b)*{_GAP})*(?:'s\b)?{_GLUE}*")
_FILLED = rf"{_GLUE}*{_GAP}(?:{_GLUE}|{_GAP})*"
_BRACKETED = re.compile(
    rf"[{re.escape(_OPENING)}]{_FILLED}[{re.escape(_CLOSING)}]|\"{_FILLED}\"|(?<!\w)'{_FILLED}'(?!\w)"
)
_MAX_NESTED = 3  # brackets and quotes around nothing else
_STOP = re.compile(f"[{re.escape(_STOPS)}]+")
_COMMA = re.compile(f" - |[{re.escape(_COMMAS)}]")


def leave_out(text: str, language: str) -> tuple[str, int]:
    """`text` as a model of `language` can read it, a line that has no words left removed; letters left out."""
    if text.isascii():
        return text, 0
    text = _read_symbols(
        _UNSPACED_STOP.sub(r"\1 ", text) if language not in _UNSPACED_LANGUAGES else text, language
    )
    if language == "zh" and _KANA.search(text):
        text = _SENTENCE.sub(_hide_japanese, text)
    text = text.translate(_table(language)).replace("\u2126", "Ω")
    left_out = text.count(_GAP)
    if not left_out:
        return text, 0
    lines = [_close_gaps(line) if _GAP in line else line for line in text.split("\n")]
    return "\n".join(line for line in lines if line is not None), left_out


def unspeakable(text: str, language: str) -> BadRequest:
    """The error for a text in which `leave_out` left nothing to say."""
    letters = characters.normalize(text)
    foreign = Counter(_script(letter) for letter in letters if _table(language)[ord(letter)] == _GAP)
    script = foreign.most_common(1)[0][0] if foreign else ""
    published = (language for model in PUBLISHED_MODELS for language in model.languages)
    other = next((name for name in published if script in LANGUAGES[name].scripts), None)
    no_other = "nor can any other published ORPHEUS_MODEL: send it in Latin letters."
    voice = f"the {name_of(language)} voice"
    if _KANA.search(letters):
        message = f"input is in Japanese, which {voice} cannot speak, {no_other}"
    elif other is None:
        message = f"input is in {script.title()} letters, which {voice} cannot speak, {no_other}"
    else:
        model = next(model for model in PUBLISHED_MODELS if other in model.languages)
        message = (
            f"input is in {name_of(other)}, which {voice} cannot speak: set ORPHEUS_MODEL to "
            f"{model.repository}."
        )
    return BadRequest(message, param="input", code="unspeakable_language")


class _Table(dict[int, str | None]):
    """Character → itself, its equivalent, or a gap, for str.translate; filled as characters are met."""

    def __init__(self, language: str) -> None:
        super().__init__()
        scripts = scripts_of(language)
        self._speaks_any = scripts is None
        self._own = _LATIN | (scripts or frozenset()) | ({"COMBINING"} if scripts else frozenset())
        self._has_joiners = scripts is None or bool(scripts - _NO_JOINERS)
        self._punctuation = _PUNCTUATION | _DANDAS | _WIDE_PUNCTUATION
        for script in _KEPT_PUNCTUATION if scripts is None else scripts & _KEPT_PUNCTUATION.keys():
            for mark in _KEPT_PUNCTUATION[script]:
                self._punctuation.pop(mark, None)

    def __missing__(self, code: int) -> str | None:
        self[code] = replacement = self._replacement(chr(code))
        return replacement

    def _replacement(self, character: str) -> str | None:
        if character in self._punctuation:
            return self._punctuation[character]
        if character in "\u200c\u200d":
            return character if self._has_joiners else None
        category = unicodedata.category(character)
        if (
            character.isascii()
            or category[0] not in "LMN"
            or self._speaks_any
            or _script(character) in self._own
        ):
            return character
        if category == "Nd":
            return str(unicodedata.decimal(character))
        return character if _script(character) in _NUMBER_SIGNS else _GAP


@cache
def _table(language: str) -> _Table:
    return _Table(language)


def _script(character: str) -> str:
    return unicodedata.name(character, "unknown").split(" ")[0]


def _read_symbols(text: str, language: str) -> str:
    """Greek letters that stand by themselves as their names, and Latin letters for those that look like them."""
    names = _GREEK_NAMES.get(language, "").split()

    def named(match: re.Match[str]) -> str:
        run = unicodedata.normalize("NFKC", match[0]).lower()
        if not names or not all(
            word[0] in _GREEK and len(word[0]) == 1 for word in _GREEK_WORD.finditer(run)
        ):
            return match[0]
        before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
        words = _GREEK_WORD.sub(lambda word: names[_GREEK[word[0]]], run)
        return " " * _touches(before) + words + " " * _touches(after)

    if _GREEK_WORD.search(text):
        text = _GREEK_RUN.sub(named, _OHM.sub("\\1\u2126", _MICRO.sub("µ", text)))
    return _MIXED_WORD.sub(_latin, text)


def _touches(neighbour: str) -> bool:
    return neighbour.isdecimal() or (neighbour.isalpha() and length(neighbour) == 1)


def _latin(word: re.Match[str]) -> str:
    mixed = not word[0].isascii() and any(letter.isascii() for letter in word[0])
    return word[0].translate(_HOMOGLYPHS) if mixed else word[0]


def _hide_japanese(sentence: re.Match[str]) -> str:
    """Gaps for the Chinese characters of a Japanese sentence: its own letters are a quarter of it or more."""
    kana = len(_KANA.findall(sentence[0].replace("の", "")))  # Chinese brands have this one in their names
    return _HAN.sub(_GAP, sentence[0]) if kana and 3 * kana >= len(_HAN.findall(sentence[0])) else sentence[0]


def _close_gaps(line: str) -> str | None:
    """A line without its gaps, nor the punctuation, brackets and spaces that belonged to them; None for no words."""
    for _ in range(_MAX_NESTED):
        closed = _BRACKETED.sub(_GAP, line)
        if closed == line:
            break
        line = closed
    kept: list[str] = []
    last, end = "", 0  # the last characters kept; the end of the last gap
    for gaps in _GAPS.finditer(line):
        piece = line[end : gaps.start()]
        before = piece.rstrip(_GLUE_CHARS)
        unnumbered = before.rstrip("0123456789").rstrip(" ")
        if before == piece and (last + unnumbered)[-1:] in ("", *_STOPS):
            before = unnumbered  # "3月": the number at the beginning of a sentence goes with its word
        end = gaps.end()
        last = (last + before)[-2:]
        joint = _joint(last, piece[len(before) :] + gaps[0], line[end : end + 1])
        kept += before, joint
        last = (last + joint.rstrip())[-2:]
    kept.append(line[end:])
    text = "".join(kept)
    return text if any(c.isalpha() or is_placeholder(c) for c in text) else None


def _joint(before: str, gap: str, after: str) -> str:
    """What remains of a gap and the punctuation at it, by the last two characters before and the first after it."""
    quoted = before[-1:] in tuple(_QUOTES) and (len(before) == 1 or before[-2] in " " + _OPENING)
    if not before or before[-1] in _OPENING or quoted:
        return ""
    closes = after == "" or after in _CLOSING or (after in _QUOTES and gap[-1] == _GAP)
    wide = length(before[-1]) > 1 or length(after) > 1
    space = "" if closes or (wide and " " not in gap) else " "
    if before.rstrip(_QUOTES + _CLOSING)[-1:] in tuple(_STOPS):
        return space
    if (stop := _STOP.search(gap)) and not after.islower():
        return stop[0] + space
    comma = _COMMA.search(gap)
    return (comma[0].rstrip() + space) if comma and not closes else space
