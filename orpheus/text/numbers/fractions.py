"""Fractions: "½", "2½", "3/4", "24/7"."""

from __future__ import annotations

import re
import unicodedata
from math import gcd

from orpheus.text.numbers import words
from orpheus.text.numbers.kind import Context
from orpheus.text.numbers.language import Language, Noun

_VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_FRACTION = re.compile(
    rf"(?P<whole>\d{{1,3}})??(?:(?<=\d) (?=\d))?(?P<top>\d{{1,3}})/(?P<bottom>\d{{1,3}})|(?P<minus>-)?(?P<number>\d{{1,3}})? ?(?P<vulgar>[{_VULGAR}])"
)
_SPOKEN_IN_TURN = {
    "en": ("24/7", "50/50", "9/11", "20/20"),
    "de": ("24/7", "50/50"),
    "es": ("24/7", "50/50"),
    "it": ("24/7", "50/50"),
}
_OUT_OF = {"en": "out of", "fr": "sur", "de": "von", "es": "de", "it": "su"}
_RATED_OUT_OF = (5, 10, 20, 100)
_MAX_DENOMINATOR = 10

_HALVES = {
    "en": ("half", "halves"),
    "fr": ("demi", "demis"),
    "es": ("medio", "medios"),
    "it": ("mezzo", "mezzi"),
}
_AND_A_HALF = {"fr": ("et", "demi"), "es": ("y", "medio"), "it": ("e", "mezzo")}
_THIRDS = {
    "en": ("third", "thirds"),
    "fr": ("tiers", "tiers"),
    "es": ("tercio", "tercios"),
    "it": ("terzo", "terzi"),
}
_QUARTERS = {
    "en": ("quarter", "quarters"),
    "fr": ("quart", "quarts"),
    "es": ("cuarto", "cuartos"),
    "it": ("quarto", "quarti"),
}
_GERMAN_HALF_MASCULINE = (
    "Liter|Tag|Meter|Kilometer|Monat|Apfel|Löffel|Teelöffel|Esslöffel|Becher|Bund|Euro|Dollar"
)
_GERMAN_HALF_NEUTER = "Pfund|Jahr|Kilo|Kilogramm|Glas|Dutzend|Brot|Jahrhundert|Päckchen|Gramm"


def pattern(language: Language) -> str:
    # "2½ heures" is "deux heures et demie".
    with_noun = r"\d{1,3} ?½ [a-zà-ú]{3,20}|" if language.code in _AND_A_HALF else ""
    return with_noun + rf"(?:\d{{1,3}} )?\d{{1,3}}/\d{{1,3}}|-?(?:\d{{1,3}} ?)?[{_VULGAR}]"


def read(text: str, context: Context, language: Language) -> str | None:
    if text in _SPOKEN_IN_TURN.get(language.code, ()):
        return " ".join(words.cardinal(int(number), language) for number in text.split("/"))
    if (noun := text.rpartition(" ")[2]).isalpha():
        return _and_a_half(int(text.partition("½")[0]), noun, language)
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    if match["vulgar"]:
        top, bottom = (int(part) for part in unicodedata.normalize("NFKD", match["vulgar"]).split("⁄"))
        whole = match["number"]
    else:
        whole, top, bottom = match["whole"], int(match["top"]), int(match["bottom"])
        is_part = (
            0 < top < bottom <= _MAX_DENOMINATOR and gcd(top, bottom) == 1 and (top == 1 or bottom != 10)
        )
        if not is_part:
            rated = bottom in _RATED_OUT_OF and top <= bottom and whole is None and language.code in _OUT_OF
            return (
                f"{words.cardinal(top, language)} {_OUT_OF[language.code]} {words.cardinal(bottom, language)}"
                if rated
                else None
            )
    if match["minus"]:
        spoken = _mixed(int(whole), top, bottom, context, language) if whole else _part(top, bottom, language)
        return f"{language.minus} {spoken}"
    if whole is not None and int(whole):
        return _mixed(int(whole), top, bottom, context, language)
    if (top, bottom) == (1, 2) and (half := _half_of(context, language)):
        return half
    return _part(top, bottom, language)


def _part(top: int, bottom: int, language: Language) -> str:
    if language.code == "ko":
        return f"{words.cardinal(bottom, language)}분의 {words.cardinal(top, language)}"
    if language.code == "de":
        if bottom == 2:
            return f"{words.agree(words.cardinal(top, language), Noun('', '', 'n'), language)} halb"
        name = words.ordinal(bottom, language)[:-1].capitalize() + "el"
        return words.counted(top, Noun(name, name, "n"), language)
    table = {2: _HALVES, 3: _THIRDS, 4: _QUARTERS}.get(bottom)
    if table is not None:
        names = table[language.code]
    else:
        name = words.ordinal(bottom, language)
        names = (name, name[:-1] + "i" if language.code == "it" else name + "s")
    return words.counted(top, Noun(*names), language)


def _half_of(context: Context, language: Language) -> str | None:
    """A half of what follows: "half a cup"."""
    feminine = context.precedes(language.feminine)
    match language.code:
        case "en":
            return "half" if context.precedes(r"(?:of|an?|the|my|your|his|her|its|our|their)\b") else None
        case "fr":
            return "une demi" if feminine else None
        case "de":
            if context.precedes(rf"(?:{_GERMAN_HALF_MASCULINE})\b"):
                return "ein halber"
            if context.precedes(rf"(?:{_GERMAN_HALF_NEUTER})\b"):
                return "ein halbes"
            return "eine halbe" if feminine else None
        case "es" | "it":
            name = _HALVES[language.code][0]
            if feminine:
                return name[:-1] + "a"
            return name if context.precedes(language.masculine) or context.precedes("kilo|litro") else None
    return None


def _and_a_half(whole: int, name: str, language: Language) -> str:
    joint, half = _AND_A_HALF[language.code]
    feminine = re.fullmatch(language.feminine, name) is not None
    if whole == 1 and language.code == "it":
        name = name[:-1] + ("a" if feminine or name[-1] in "ea" else "o")
    elif whole == 1:
        name = name.removesuffix("s")
    feminine = feminine or re.fullmatch(language.feminine, name) is not None
    if language.code == "it" and whole > 1:
        feminine = name[-1] in "ea"
    noun = Noun(name, name, "f" if feminine else "m")
    if feminine:
        half = half + "e" if language.code == "fr" else half[:-1] + "a"
    return f"{words.counted(whole, noun, language)} {joint} {half}"


def _mixed(whole: int, top: int, bottom: int, context: Context, language: Language) -> str:
    number = words.cardinal(whole, language)
    half = (top, bottom) == (1, 2)
    match language.code:
        case "de" if half:
            return f"{words.agree(number, Noun('', '', 'n'), language)}einhalb"
        case "en" if top == 1 and bottom in (2, 4):
            return f"{number} and a {_part(1, bottom, language).removeprefix('one ')}"
        case "ko":
            closed = (ord(number[-1]) - 0xAC00) % 28 > 0
            return f"{number}{'과' if closed else '와'} {_part(top, bottom, language)}"
        case "fr" | "es" | "it" if half:
            joint, name = _AND_A_HALF[language.code]
            return f"{number} {joint} {name}"
    joint = {"en": "and", "fr": "et", "de": "und", "es": "y", "it": "e"}[language.code]
    return f"{number} {joint} {_part(top, bottom, language)}"
