"""Verbalizes numbers: a text → the text with its numbers in words of its language, for requests that ask for it.

The model reads most numbers correctly by itself; this is for those it does not. The words come from num2words. Digits
stay where num2words lacks the language (Hindi, Chinese) and where they are ambiguous: versions, dates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

MAX_NUMBERS = (
    5_000  # in a text; the rest stay digits, so that a megabyte of numbers takes no more than a second
)
MAX_CARDINAL_DIGITS = 9  # a longer number is a code, and is read digit by digit


@dataclass(frozen=True)
class _Language:
    group: str  # between thousands
    decimal: str  # the decimal mark
    point: str  # the word for it
    percent: str
    time: str  # format of hours and minutes; "" leaves times alone
    full_hour: str
    currencies: dict[str, tuple[str, str, str, str]]  # unit and hundredth, each in singular and plural
    conjunction: str  # between units and hundredths
    one: str  # before a unit


_LANGUAGES = {
    "en": _Language(
        ",", ".", "point", "percent", "{h} {m}", "{h} o'clock",
        {
            "$": ("dollar", "dollars", "cent", "cents"), "€": ("euro", "euros", "cent", "cents"),
            "£": ("pound", "pounds", "penny", "pence"), "¥": ("yen", "yen", "sen", "sen"),
        }, " and ", "one",
    ),
    "fr": _Language(
        " ", ",", "virgule", "pour cent", "{h} heures {m}", "{h} heures",
        {
            "$": ("dollar", "dollars", "cent", "cents"), "€": ("euro", "euros", "centime", "centimes"),
            "£": ("livre", "livres", "penny", "pence"), "¥": ("yen", "yens", "sen", "sen"),
        }, " ", "un",
    ),
    "de": _Language(
        ".", ",", "Komma", "Prozent", "{h} Uhr {m}", "{h} Uhr",
        {
            "$": ("Dollar", "Dollar", "Cent", "Cent"), "€": ("Euro", "Euro", "Cent", "Cent"),
            "£": ("Pfund", "Pfund", "Penny", "Pence"), "¥": ("Yen", "Yen", "Sen", "Sen"),
        }, " ", "ein",
    ),
    "es": _Language(
        ".", ",", "coma", "por ciento", "{h} y {m}", "{h} en punto",
        {
            "$": ("dólar", "dólares", "centavo", "centavos"), "€": ("euro", "euros", "céntimo", "céntimos"),
            "£": ("libra", "libras", "penique", "peniques"), "¥": ("yen", "yenes", "sen", "sen"),
        }, " con ", "un",
    ),
    "it": _Language(
        ".", ",", "virgola", "per cento", "{h} e {m}", "{h} in punto",
        {
            "$": ("dollaro", "dollari", "centesimo", "centesimi"), "€": ("euro", "euro", "centesimo", "centesimi"),
            "£": ("sterlina", "sterline", "penny", "pence"), "¥": ("yen", "yen", "sen", "sen"),
        }, " e ", "un",
    ),
    "ko": _Language(",", ".", "점", "퍼센트", "", "", {}, "", "일"),
}  # fmt: skip
_ORDINALS = {"en": "st|nd|rd|th", "fr": "er|re|ère|ème|e", "es": "º|ª|°", "it": "º|ª|°"}
_FEMININE = {"fr": ("re", "ère"), "es": ("ª",), "it": ("ª",)}

_SCALES = r"(?: (?:hundred|thousand|million|billion|trillion|millions?|milliards?|Millionen|Milliarden|millones|milioni|miliardi)\b)"


# Groups separated only by spaces may be thousands or a list, so a phone number needs another sign of being one.
_PHONE = (
    r"(?:\+\d{1,3}[ -]?)?\(\d{2,4}\)(?: ?\d{2,5})(?:[ -]\d{2,5}){0,4}|\+\d{1,3}(?:[ -]\d{2,5}){2,5}|\+\d{7,15}"
    r"|0\d{1,5}(?:[ -]\d{2,9}){1,5}|\d{3}-\d{3}-\d{4}|\d{3} \d{3} \d{4}|\d{3}-\d{4}|0\d{1,14}"
)


def _expression(language: str, rules: _Language) -> re.Pattern[str]:
    group, decimal = re.escape(rules.group), re.escape(rules.decimal)
    number = rf"(?:\d{{1,3}}(?:{group}\d{{3}}){{1,3}}(?!\d)|\d{{1,15}})(?:{decimal}\d{{1,12}}(?!\d))?"
    symbols = "".join(map(re.escape, rules.currencies)) or "\0"
    return re.compile(
        rf"(?<![\w.,:/])(?<!\d-)(?:"
        rf"(?P<phone>{_PHONE})(?!\w|[.,:/-]\d)"
        rf"|(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?![\w:])(?P<am_or_pm>(?= ?[ap]\.?m\b))?"
        rf"|(?P<before>[{symbols}]) ?(?P<price>{number})(?P<scale>{_SCALES})?(?!\w)"
        rf"|(?P<sum>{number})(?P<sum_scale>{_SCALES})? ?(?P<after>[{symbols}])(?!\w)"
        rf"|(?P<percent>-?{number}) ?%(?!\w)"
        rf"|(?P<ordinal>\d{{1,6}})(?:{_ORDINALS.get(language, chr(0))})(?!\w)"
        rf"|(?P<year>1[1-9]\d\d|20\d\d)(?P<decade>s?)(?!\w|[.,:/-]\d)"
        rf"|(?P<number>-?{number})(?!\w|[.,:/-]\d)"
        rf")",
    )


_EXPRESSIONS = {language: _expression(language, rules) for language, rules in _LANGUAGES.items()}


def verbalize(text: str, language: str) -> str:
    """`text` with its first MAX_NUMBERS numbers in words; unchanged for a language without rules."""
    rules = _LANGUAGES.get(language)
    if rules is None:
        return text
    return _EXPRESSIONS[language].sub(
        lambda match: _words_for(match, language, rules), text, count=MAX_NUMBERS
    )


def _words_for(match: re.Match[str], language: str, rules: _Language) -> str:
    found = match.groupdict()
    if phone := found["phone"]:
        groups = re.findall(r"\d+", phone)
        return ", ".join(" ".join(_cardinal(int(digit), language) for digit in group) for group in groups)
    if hour := found["hour"]:
        return _time(int(hour), found["minute"], found["am_or_pm"] is not None, language, rules) or match[0]
    if symbol := found["before"] or found["after"]:
        amount, scale = found["price"] or found["sum"], found["scale"] or found["sum_scale"] or ""
        return _price(amount, scale, rules.currencies[symbol], language, rules)
    if percent := found["percent"]:
        return f"{_number(percent, language, rules)} {rules.percent}"
    if ordinal := found["ordinal"]:
        words = _num2words(int(ordinal), language, "ordinal")
        ending = match[0][len(ordinal) :]
        if ending in _FEMININE.get(language, ()):
            words = "première" if words == "premier" else words[:-1] + "a" if words.endswith("o") else words
        return words
    if year := found["year"]:
        # For Korean, num2words adds the counter, which the text contains already.
        words = _num2words(int(year), language, "year" if language != "ko" else "cardinal")
        if not found["decade"]:
            return words
        return words[:-1] + "ies" if words.endswith("y") else words + "s"
    return _number(found["number"], language, rules)


def _number(text: str, language: str, rules: _Language) -> str:
    """A cardinal or a decimal; a long number digit by digit."""
    minus = _num2words(-1, language, "cardinal").split()[0] + " " if text[0] == "-" else ""
    whole, _, fraction = text.lstrip("-").replace(rules.group, "").partition(rules.decimal)
    words = _digits(whole, language) if len(whole) > MAX_CARDINAL_DIGITS else _cardinal(int(whole), language)
    return minus + (f"{words} {rules.point} {_digits(fraction, language)}" if fraction else words)


def _time(hour: int, minute: str, am_or_pm: bool, language: str, rules: _Language) -> str:
    if not rules.time:
        return ""
    hour_words, minute_words = _cardinal(hour, language), _cardinal(int(minute), language)
    if int(minute) == 0:
        return hour_words if am_or_pm else rules.full_hour.format(h=hour_words)
    if language == "en" and int(minute) < 10:
        minute_words = f"oh {minute_words}"
    return rules.time.format(h=hour_words, m=minute_words)


def _price(amount: str, scale: str, names: tuple[str, str, str, str], language: str, rules: _Language) -> str:
    unit, units, hundredth, hundredths = names
    whole, _, fraction = amount.replace(rules.group, "").partition(rules.decimal)
    if scale or len(fraction) not in (0, 2) or len(whole) > MAX_CARDINAL_DIGITS:
        return f"{_number(amount, language, rules)}{scale} {units}"

    def counted(count: int, singular: str, plural: str) -> str:
        return f"{rules.one} {singular}" if count == 1 else f"{_cardinal(count, language)} {plural}"

    words = counted(int(whole), unit, units)
    if int(fraction or 0):
        words += rules.conjunction + counted(int(fraction), hundredth, hundredths)
    return words


def _digits(digits: str, language: str) -> str:
    return " ".join(_cardinal(int(digit), language) for digit in digits)


def _cardinal(number: int, language: str) -> str:
    return _num2words(number, language, "cardinal")


@lru_cache(4096)
def _num2words(number: int, language: str, to: str) -> str:
    from num2words import num2words  # not at the top: it loads fifty languages, and few requests need one

    return str(num2words(number, lang=language, to=to))
