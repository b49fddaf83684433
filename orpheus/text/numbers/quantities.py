"""Percentages and amounts with a unit: "5 km/h", "-5°C", "5-10%"."""

from __future__ import annotations

import re
from functools import lru_cache

from orpheus.text.numbers import amounts, ordinals
from orpheus.text.numbers.kind import Context, unnamed
from orpheus.text.numbers.language import Language, Noun, alternatives

_ALIASES = {"℃": "°C", "℉": "°F", "° C": "°C", "° F": "°F", "ºC": "°C", "ºF": "°F"}
# Scales that are written short, before anything that is counted.
_SCALES = frozenset(("Mio.", "Mio", "Mrd.", "Mrd", "Tsd.", "mln", "mld", "Md", "Mds", "bn", "mn", "mill."))


def pattern(language: Language) -> str:
    return unnamed(_expression(language).pattern)


@lru_cache
def _expression(language: Language) -> re.Pattern[str]:
    number, units = amounts.pattern(language), alternatives(("%", *_units(language), *_ALIASES))
    return re.compile(
        rf"(?P<sum>{amounts.SIGN}?{number})(?: ?(?P<first>{units}))?(?:[-~](?P<end>{number}))?"
        rf" ?(?P<unit>{units})(?![^\W가-힣]|[²³/])"
    )


def read(text: str, context: Context, language: Language) -> str | None:
    match = _expression(language).fullmatch(text)
    if match is None or (match["first"] and not match["end"]):
        return None
    amount = amounts.parse(match["sum"], language, foreign=True)
    end = amounts.parse(match["end"], language, foreign=True) if match["end"] else None
    if amount is None or (match["end"] and end is None):
        return None
    if match["unit"] == "°" and not end and (words := _ordinal_degree(text, context, language)):
        return words
    noun = _noun(match["unit"], language)
    if (
        language.code == "en"
        and match[0].endswith("m")
        and context.precedes("(?:people|users|views|copies|customers|visitors)")
    ):
        noun = language.scales[10**6]  # "1.5m people"
    if end is None:
        return _with_unit(amount, noun, language)
    first = _with_unit(amount, _noun(match["first"], language), language) if match["first"] else None
    return f"{first or amounts.spoken(amount, language)}{language.to}{_with_unit(end, noun, language)}"


def _ordinal_degree(text: str, context: Context, language: Language) -> str | None:
    """In Spanish and Italian a degree sign may stand for that of ordinals: "il 1° maggio"."""
    articles = {"es": "[Ee]l|[Ll]a|del|al|su|un", "it": "[Ii]l|[Ll]a|[Ll]o|del|al|dal|nel|un"}.get(
        language.code
    )
    month = language.code in ("es", "it") and context.precedes(f"(?:de )?{language.months}")
    if month or (articles and context.follows(articles) and context.precedes("[a-zà-ù]")):
        return ordinals.read(text, context, language)
    return None


@lru_cache
def _units(language: Language) -> dict[str, Noun]:
    scales = {
        name.strip(): language.scales[value]
        for name, value in language.scale_names.items()
        if name.strip() in _SCALES and value in language.scales
    }
    return language.units | scales


def _noun(symbol: str, language: Language) -> Noun:
    if symbol == "%":
        return Noun(language.percent, language.percent, "n")
    return _units(language).get(_ALIASES.get(symbol, symbol), Noun(symbol, symbol))


def _with_unit(amount: amounts.Amount, noun: Noun, language: Language) -> str:
    if noun.singular == language.percent and language.code != "de":  # "veintiuno por ciento"
        return f"{amounts.spoken(amount, language)} {language.percent}"
    return amounts.spoken(amount, language, noun)
