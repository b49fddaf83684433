"""Numbers as they are written, with their marks → their digits, and those in words.

Which mark is which is decided from the whole number: "1.234,56" and "1,234.56" are the same everywhere, "1.234" is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orpheus.text.numbers import words
from orpheus.text.numbers.language import Language, Noun

MAX_CARDINAL_DIGITS = 9  # a longer number without marks is a code, and is read digit by digit
MAX_GROUPED_DIGITS = 15

SIGN = r"[-+±~≈]"
_GROUPS = re.compile(r"\d{1,3}(?:(?P<mark>[.,' ])\d{3})(?:(?P=mark)\d{3})*|\d{1,2}(?:,\d\d)+,\d{3}")


@dataclass(frozen=True)
class Amount:
    sign: str  # or ""
    whole: str  # digits
    fraction: str  # digits
    grouped: bool


def pattern(language: Language) -> str:
    """A regular expression of what may be a number without a sign. The French separate thousands by spaces; elsewhere
    "100 200" may be two numbers."""
    spaced = (
        r"\d{1,3}(?: \d{3}){1,4}"
        if language.group == " "
        else r"\d{1,2}(?: \d{3}){1,4}|\d{3}(?: \d{3}){0,3} 000"
    )
    return rf"(?:(?:{spaced})(?!\d| \d{{3,4}}\b)(?:[.,]\d{{1,12}})?|\d{{1,15}}(?:[.,']\d{{1,12}}){{0,5}}(?! 000\b)|\.\d{{1,12}})"


def parse(text: str, language: Language, *, foreign: bool = False) -> Amount | None:
    """None if `text` is no number in this language; `foreign` takes the decimal mark of another ("$1.2" in German)."""
    sign = text[0] if text[0] in "-+±~≈" else ""
    text = text[len(sign) :].strip()
    whole, decimal, fraction = _split(text, language, foreign or language.code == "es")
    grouped = not whole.isdecimal()
    if grouped and (not _GROUPS.fullmatch(whole) or whole[0] == "0"):
        return None
    if decimal and not fraction.isdecimal():
        return None
    whole = re.sub(r"\D", "", whole) or "0"
    if len(whole) > MAX_GROUPED_DIGITS:
        return None
    return Amount(sign, whole, fraction, grouped and whole != "0")


def _split(text: str, language: Language, foreign: bool) -> tuple[str, str, str]:
    """The whole part with its marks, the decimal mark and the fraction."""
    marks = re.sub(r"[\d ]", "", text)
    if not marks:
        return text, "", ""
    if text.startswith("."):
        return ("0", ".", text[1:]) if language.decimal == "." or foreign else ("?", "", "")
    last = marks[-1]
    single = marks.count(last) == 1
    whole, _, fraction = text.rpartition(last)
    if single and last != "'" and (len(marks) > 1 or " " in text or last == language.decimal):
        return whole, last, fraction
    if single and last in ".," and last != language.decimal:
        groups = (
            len(fraction) == 3 and whole != "0" and len(whole) <= 3 and (_is_group(last, language) or foreign)
        )
        if not groups:
            return (whole, last, fraction) if foreign and len(fraction) < 3 else ("?", "", "")
        return text, "", ""
    if _is_group(last, language) or foreign:
        return text, "", ""
    return "?", "", ""


def _is_group(mark: str, language: Language) -> bool:
    """The French also write "10.000"."""
    return mark in (language.group, "'") or (mark == "." and language.group == " ")


def spoken(amount: Amount, language: Language, noun: Noun | None = None, *, named: bool = True) -> str:
    """`amount` in words, in the form it has before `noun`, and the noun unless not `named`."""
    number = int(amount.whole)
    is_code = len(amount.whole) > MAX_CARDINAL_DIGITS and not amount.grouped
    whole = words.digits(amount.whole, language) if is_code else words.cardinal(number, language)
    if amount.fraction:
        if language.decimal_pairs and len(amount.fraction) == 2 and amount.fraction[0] != "0":
            fraction = words.cardinal(int(amount.fraction), language)
        else:
            fraction = " ".join(words.cardinal(int(digit), language) for digit in amount.fraction)
        whole = f"{whole} {language.point} {fraction}"
    elif noun is not None:
        whole = words.agree(whole, noun, language)
    sign = {
        "-": language.minus, "+": language.plus, "±": language.plus_minus, "~": language.about, "≈": language.about,
    }.get(amount.sign)  # fmt: skip
    spoken_amount = f"{sign} {whole}" if sign else whole
    if noun is None or not named:
        return spoken_amount
    if amount.fraction:
        return f"{spoken_amount} {decimal_plural(number, noun, language)}"
    return spoken_amount + words.link(number, noun, language) + words.plural(number, noun, language)


def decimal_plural(number: int, noun: Noun, language: Language) -> str:
    """The form of `noun` after a decimal: "1,5 million" in French, "1,5 millones" in Spanish."""
    return noun.singular if language.code == "fr" and number < 2 else noun.plural


def scaled(amount: Amount, scale: int) -> Amount | None:
    """`amount` times `scale`, if that is a whole number."""
    zeros = len(str(scale)) - 1
    if len(amount.fraction) > zeros:
        return None
    return Amount(amount.sign, amount.whole.lstrip("0") + amount.fraction.ljust(zeros, "0"), "", grouped=True)
