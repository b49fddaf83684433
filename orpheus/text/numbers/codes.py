"""Numbers that are names and not amounts: telephone and card numbers, zip codes, PINs. They are read digit by digit."""

from __future__ import annotations

import re
from functools import lru_cache

from orpheus.text.numbers import words
from orpheus.text.numbers.kind import Context
from orpheus.text.numbers.language import Language

# Groups separated only by spaces may be thousands or a list, so a phone number needs another sign of being one.
_PHONE = (
    r"(?:\+\d{1,3}[ -]?|1[ -])?\(\d{2,4}\)(?: ?\d{2,5})(?:[ -]\d{2,5}){0,4}|\+(?=(?:[ ()-]{0,3}\d){7})\d{1,3}(?:[ -]\(?\d{1,9}\)?){1,5}|\+\d{7,15}"
    r"|0\d{1,5}(?:[ -]\d{2,9}){1,5}|(?:1-)?\d{3}-\d{3}-\d{4}|\d{3} \d{3,4} \d{4}|\d{3}\.\d{3}\.\d{4}|\d{3}-\d{4}|0\d{1,14}"
)
_SPANISH_PHONE = r"[6-9]\d\d(?: \d{3}){2}|[6-9]\d\d(?: \d\d){3}"
_FRENCH_PHONE = r"0\d(?:\.\d\d){4}"
_ITALIAN_PHONE = r"3\d\d[ .-]\d{6,7}"
_CARD = r"\d{4}(?:[ -]\d{4}){2,6}[ -]\d{1,4}|3\d{3}[ -]\d{6}[ -]\d{5}"
_US_SOCIAL_SECURITY = r"\d{3}-\d\d-\d{4}"
_ISBN = r"97[89][- ]\d{1,5}[- ]\d{1,7}[- ]\d{1,7}[- ]\d|\d-\d{2,7}-\d{2,7}-\d"
_US_STATE_ZIP = r"[A-Z]{2} \d{5}(?:-\d{4})?"
_MIN_PHONE_DIGITS = 6  # of one in groups: "08-15" may be a date


def pattern(language: Language) -> str:
    own = {"es": _SPANISH_PHONE, "en": _US_STATE_ZIP, "fr": _FRENCH_PHONE, "it": _ITALIAN_PHONE}.get(
        language.code, "(?!)"
    )
    return (
        rf"(?i:{language.code_words})(?:(?:'s|:| is| number| #| ist| lautet| es| è| est|은|는|번호)?) ?#?\d{{3,12}}(?:-\d{{3,4}})?"
        rf"|(?i:{language.emergency_words or '(?!)'}) (?:1\d\d|[2-9]11|999|988)"
        rf"|{language.emergency_number}|(?:{language.labelled_codes}) [1-9]\d\d|{_CARD}|{_US_SOCIAL_SECURITY}|{_ISBN}"
        rf"|{_PHONE}|{own}"
    )


def read(text: str, context: Context, language: Language) -> str | None:
    if re.fullmatch(r"0\d*", text):
        return words.digits(text, language)
    if label := _label(language).match(text):
        number = text[label.end() :]
        if label["pairs"]:
            return label[0] + _in_pairs(int(number), language)
        return label[0] + ", ".join(words.digits(group, language) for group in number.split("-"))
    groups = re.findall(r"\d+", text)
    if text[0] == "0" and sum(map(len, groups)) < _MIN_PHONE_DIGITS:
        return None
    return ", ".join(_group(group, language) for group in groups)


def _group(group: str, language: Language) -> str:
    """The French say a group of two digits as a number."""
    if language.code != "fr" or len(group) != 2:
        return words.digits(group, language)
    number = words.cardinal(int(group), language)
    return number if group[0] != "0" or group == "00" else f"{words.cardinal(0, language)} {number}"


def _in_pairs(number: int, language: Language) -> str:
    """101 → "one oh one", 747 → "seven forty-seven", 300 → "three hundred"."""
    hundreds, rest = divmod(number, 100)
    if not rest:
        return words.cardinal(number, language)
    oh = "oh " if rest < 10 else ""
    return f"{words.cardinal(hundreds, language)} {oh}{words.cardinal(rest, language)}"


@lru_cache
def _label(language: Language) -> re.Pattern[str]:
    return re.compile(rf"(?P<pairs>(?:{language.labelled_codes}) )|[^\W\d]\D*")
