"""Whole numbers → words, with the forms that a language gives them before what they count."""

from __future__ import annotations

import re
from functools import lru_cache

from orpheus.text.numbers.language import Language, Noun

_SINO_KOREAN_ZERO = "공"  # in a code
_KOREAN_TENS = ("", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔")
_KOREAN_ONES = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉")


def cardinal(number: int, language: Language) -> str:
    """`number` in words: 21 → "twenty-one"."""
    if number < 1000 or not language.scales:
        return _num2words(number, language.code, "cardinal")
    # num2words takes 0.2 ms for a long number in French; the words below a thousand are remembered.
    value = next((value for value in language.scales if number >= value), 0)
    if not value:
        return _num2words(number, language.code, "cardinal")
    count, rest = divmod(number, value)
    words = _scale(count, value, language)
    return words + _joint(value, rest, language) + cardinal(rest, language) if rest else words


def _scale(count: int, value: int, language: Language) -> str:
    """Thousands, millions: 21,000 → "veintiún mil"."""
    if value > 1000 or language.code == "en":
        return counted(count, language.scales[value], language)
    if language.code == "de":
        return agree(cardinal(count, language), language.scales[value], language) + "tausend"
    thousand = language.scales[value].singular
    if count == 1:
        return thousand
    words = agree(cardinal(count, language), language.scales[value], language)
    # "quatre-vingt mille", "deux cent mille"
    return (re.sub("(?<=vingt|.cent)s$", "", words) if language.code == "fr" else words) + " " + thousand


def _joint(value: int, rest: int, language: Language) -> str:
    if language.code == "en":
        return " and " if rest < 100 else ", "
    return "" if value == 1000 and language.code == "de" else " "


def digits(text: str, language: Language) -> str:
    """One by one: "007" → "zero zero seven"."""
    words = " ".join(cardinal(int(digit), language) for digit in text if digit.isdecimal())
    return words.replace("영", _SINO_KOREAN_ZERO) if language.code == "ko" else words


def ordinal(number: int, language: Language) -> str:
    """In its masculine form where there are several; in German without an ending: "dritte"."""
    words = _num2words(number, language.code, "ordinal")
    if language.code == "es":
        # As the academy writes them; num2words has "décimoprimero".
        words = re.sub("^décimoprimero", "undécimo", words)
        words = re.sub("^décimosegundo", "duodécimo", words)
        words = re.sub("^décimo ?(?=[a-zé])", "decimo", words)
        words = words.replace("quadragésimo", "cuadragésimo")
    return words


def year(number: int, language: Language) -> str:
    """As it is said of years: 1999 → "nineteen ninety-nine"."""
    if language.code in ("en", "de"):
        return _num2words(number, language.code, "year")
    return cardinal(number, language)


def counted(number: int, noun: Noun, language: Language) -> str:
    """`number` with its noun: 21 → "veintiún euros"."""
    words = agree(cardinal(number, language), noun, language)
    return words + link(number, noun, language) + plural(number, noun, language)


def link(number: int, noun: Noun, language: Language) -> str:
    """Between a number and what it counts: "un million d'euros"."""
    if language.code == "it" and number == 1 and noun.gender == "f" and noun.singular[:1] in tuple("aeiou"):
        return ""
    if number % 1_000_000 or not number:
        return " "
    return " d'" if language.code == "fr" and noun.plural[0] in "aeéiouh" else language.of


def plural(number: int, noun: Noun, language: Language) -> str:
    """The form of `noun` after a whole number."""
    return noun.singular if number == 1 or (number == 0 and language.code == "fr") else noun.plural


def agree(words: str, noun: Noun, language: Language) -> str:
    """A cardinal in the form it has before `noun`."""
    feminine = noun.gender == "f"
    if language.code == "de" and words.endswith("eins"):
        return words[:-1] + "e" * feminine
    if language.code == "fr" and feminine and re.search(r"(?:^|\W)un$", words):
        return words + "e"
    if language.code == "it" and words == "uno":
        if feminine:
            return "un'" if noun.singular[:1] in tuple("aeiou") else "una"
        return words if re.match("s[^aeiou]|z|gn|ps|x|y", noun.singular) else "un"
    if language.code == "es":
        if feminine:
            words = re.sub("(?<=cient|nient)os(?!.*mill)", "as", words)
            return words[:-1] + "a" if words.endswith("uno") else words
        if words.endswith("veintiuno"):
            return words[:-3] + "ún"
        return words[:-1] if words.endswith("uno") else words
    return words


def native_korean(number: int) -> str:
    """1 to 99 as they are said before things and hours: "스물한"."""
    return "스무" if number == 20 else _KOREAN_TENS[number // 10] + _KOREAN_ONES[number % 10]


@lru_cache(8192)
def _num2words(number: int, language: str, to: str) -> str:
    from num2words import num2words  # not at the top: it loads fifty languages, and few requests need one

    return str(num2words(number, lang=language, to=to))
