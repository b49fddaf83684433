"""TokenChunk in a text → words of its language, for requests that ask for it.

Knows nothing of sentences. The model reads most numbers by itself; this is for those it gets wrong. Words come from
num2words; a language it lacks (Hindi, Chinese) keeps its digits, and so does whatever is ambiguous: versions, dates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

MOST_NUMBERS = 5_000  # of a text; the rest stays as digits, so that a megabyte of numbers ends in a second
MOST_DIGITS = 9  # of a cardinal; a longer one is a code, and is read digit by digit


@dataclass(frozen=True)
class _Language:
    group: str  # between thousands
    decimal: str
    point: str  # what the decimal mark is called
    percent: str
    time: str  # of hours and minutes; "" leaves times alone
    full_hour: str
    currencies: dict[str, tuple[str, str, str, str]]  # one, many, one hundredth, many hundredths
    joint: str  # between a sum and its hundredths
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


# Groups parted by spaces alone may be thousands or a list: they need a sign that it is a phone.
_PHONE = (
    r"(?:\+\d{1,3}[ -]?)?\(\d{2,4}\)(?: ?\d{2,5})(?:[ -]\d{2,5}){0,4}|\+\d{1,3}(?:[ -]\d{2,5}){2,5}|\+\d{7,15}"
    r"|0\d{1,5}(?:[ -]\d{2,9}){1,5}|\d{3}-\d{3}-\d{4}|\d{3} \d{3} \d{4}|\d{3}-\d{4}|0\d{1,14}"
)


def _expression(language: str, own: _Language) -> re.Pattern[str]:
    group, decimal = re.escape(own.group), re.escape(own.decimal)
    number = rf"(?:\d{{1,3}}(?:{group}\d{{3}}){{1,3}}(?!\d)|\d{{1,15}})(?:{decimal}\d{{1,12}}(?!\d))?"
    symbols = "".join(map(re.escape, own.currencies)) or "\0"
    return re.compile(
        rf"(?<![\w.,:/])(?<!\d-)(?:"
        rf"(?P<phone>{_PHONE})(?!\w|[.,:/-]\d)"
        rf"|(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?![\w:])(?P<half>(?= ?[ap]\.?m\b))?"
        rf"|(?P<before>[{symbols}]) ?(?P<price>{number})(?P<scale>{_SCALES})?(?!\w)"
        rf"|(?P<sum>{number})(?P<sum_scale>{_SCALES})? ?(?P<after>[{symbols}])(?!\w)"
        rf"|(?P<percent>-?{number}) ?%(?!\w)"
        rf"|(?P<ordinal>\d{{1,6}})(?:{_ORDINALS.get(language, chr(0))})(?!\w)"
        rf"|(?P<year>1[1-9]\d\d|20\d\d)(?P<decade>s?)(?!\w|[.,:/-]\d)"
        rf"|(?P<number>-?{number})(?!\w|[.,:/-]\d)"
        rf")",
    )


_EXPRESSIONS = {language: _expression(language, own) for language, own in _LANGUAGES.items()}


def spell(text: str, language: str) -> str:
    """`text` with its numbers in words."""
    own = _LANGUAGES.get(language)
    if own is None:
        return text
    return _EXPRESSIONS[language].sub(lambda match: _said(match, language, own), text, count=MOST_NUMBERS)


def _said(match: re.Match[str], language: str, own: _Language) -> str:
    found = match.groupdict()
    if phone := found["phone"]:
        groups = re.findall(r"\d+", phone)
        return ", ".join(" ".join(_cardinal(int(digit), language) for digit in group) for group in groups)
    if hour := found["hour"]:
        return _time(int(hour), found["minute"], found["half"] is not None, language, own) or match[0]
    if symbol := found["before"] or found["after"]:
        amount, scale = found["price"] or found["sum"], found["scale"] or found["sum_scale"] or ""
        return _price(amount, scale, own.currencies[symbol], language, own)
    if percent := found["percent"]:
        return f"{_number(percent, language, own)} {own.percent}"
    if ordinal := found["ordinal"]:
        said = _num2words(int(ordinal), language, "ordinal")
        ending = match[0][len(ordinal) :]
        if ending in _FEMININE.get(language, ()):
            said = "première" if said == "premier" else said[:-1] + "a" if said.endswith("o") else said
        return said
    if year := found["year"]:
        to = (
            "year" if language != "ko" else "cardinal"
        )  # there it adds the counter, which the text has itself
        said = _num2words(int(year), language, to)
        if not found["decade"]:
            return said
        return said[:-1] + "ies" if said.endswith("y") else said + "s"
    return _number(found["number"], language, own)


def _number(text: str, language: str, own: _Language) -> str:
    """A cardinal or a decimal; a long one digit by digit."""
    minus = _num2words(-1, language, "cardinal").split()[0] + " " if text[0] == "-" else ""
    whole, _, fraction = text.lstrip("-").replace(own.group, "").partition(own.decimal)
    said = _digits(whole, language) if len(whole) > MOST_DIGITS else _cardinal(int(whole), language)
    return minus + (f"{said} {own.point} {_digits(fraction, language)}" if fraction else said)


def _time(hour: int, minute: str, half: bool, language: str, own: _Language) -> str:
    if not own.time:
        return ""
    spoken_hour, spoken_minute = _cardinal(hour, language), _cardinal(int(minute), language)
    if int(minute) == 0:
        return spoken_hour if half else own.full_hour.format(h=spoken_hour)
    if language == "en" and int(minute) < 10:
        spoken_minute = f"oh {spoken_minute}"
    return own.time.format(h=spoken_hour, m=spoken_minute)


def _price(amount: str, scale: str, names: tuple[str, str, str, str], language: str, own: _Language) -> str:
    one, many, cent, cents = names
    whole, _, fraction = amount.replace(own.group, "").partition(own.decimal)
    if scale or len(fraction) not in (0, 2) or len(whole) > MOST_DIGITS:
        return f"{_number(amount, language, own)}{scale} {many}"

    def counted(count: int, single: str, plural: str) -> str:
        return f"{own.one} {single}" if count == 1 else f"{_cardinal(count, language)} {plural}"

    said = counted(int(whole), one, many)
    return said + (own.joint + counted(int(fraction), cent, cents) if int(fraction or 0) else "")


def _digits(digits: str, language: str) -> str:
    return " ".join(_cardinal(int(digit), language) for digit in digits)


def _cardinal(number: int, language: str) -> str:
    return _num2words(number, language, "cardinal")


@lru_cache(4096)
def _num2words(number: int, language: str, to: str) -> str:
    from num2words import num2words  # here: it loads fifty languages, and few requests ask for one

    return str(num2words(number, lang=language, to=to))
