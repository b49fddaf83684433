"""Numbers by themselves: years, decades, ranges, ratios, "#5" and any other."""

from __future__ import annotations

import re

from orpheus.text.numbers import amounts, words
from orpheus.text.numbers.kind import Context, unnamed
from orpheus.text.numbers.language import Language, Noun

_YEAR = re.compile(r"(?:1[1-9]|20)\d\d")
_RANGE = re.compile(r"(?P<start>\d{1,3}(?:[.,]\d{1,2})?)[-~](?P<end>\d{1,3}(?:[.,]\d{1,2})?)")
# After a number in this range, English says a quantity and not a year.
_ENGLISH_COUNTED = (
    r"(?:people|men|women|children|words|characters|dollars|euros|pounds|miles|meters|metres|feet|years|days|hours|minutes"
    r"|seconds|calories|copies|units|times|students|employees|steps|votes|soldiers|visitors|users|items|pages|points|kg|km"
    r"|g|ml|mg|cal|kcal|grams|liters|litres|bytes|households|homes|jobs|books|cars|members|guests|participants)\b"
)
_SPANISH_SINGULAR = r"(?!(?:de|que|como|pero|o|lo|le|me|te|se|sobre|entre|donde|cuando)\b)\w+[oe]\b"
_FRENCH_ELIDED_MILLIONS = r"\d{1,3}(?: 000){2,4} [aeéiouh][^\W\d_]{3,20}s"  # "un million d'habitants"
_COUNTED_MILLIONS = {  # the noun that follows, which takes "de" after whole millions
    "fr": r" (?!(?:mais|dans|sans|plus|vers|puis|après|depuis|moins)\b)[^\W\d_]{4,}s\b",
    "es": r" (?!(?:menos|pues|antes|entonces|además|después)\b)[^\W\d_]{4,}s\b",
    "it": r" (?!(?:oltre|come|dove|mentre|invece|anche)\b)[^\W\d_]{4,}[ie]\b",
}
_LABELS = {  # of which a number is the name
    "fr": "chapitre|page|numéro|article|niveau|étape|phase|partie|version|groupe|ligne|salle|chambre|question|tome",
    "de": "Kapitel|Seite|Nummer|Platz|Zimmer|Artikel|Paragraph|Gleis|Teil|Level|Stufe|Raum|Absatz|Punkt|Schritt|Linie|Frage",
    "es": "capítulo|página|número|artículo|tema|nivel|paso|fase|parte|versión|grupo|línea|sala|planta|día|tomo|pregunta",
    "it": "capitolo|pagina|numero|articolo|livello|passo|fase|parte|versione|gruppo|linea|sala|camera|domanda|punto",
}


def pattern(language: Language) -> str:
    decade = {"en": r"|'?(?:1[1-9]|20)\d0'?s|'?[2-9]0'?s|'\d\d(?!\d)", "de": r"|(?:1[1-9]|20)?\d0er"}.get(
        language.code, r"|'\d\d(?!\d)"
    )
    number = amounts.pattern(language)
    elided = rf"{_FRENCH_ELIDED_MILLIONS}|" if language.code == "fr" else ""
    return (
        rf"{elided}(?:{language.number_signs}){number}{decade}|{unnamed(_RANGE.pattern)}"
        rf"|\d{{1,3}}:[1-9]\d{{0,2}}|{amounts.SIGN}?{number}\+?(?! [%‰°º€£¥₹])"
    )


def read(text: str, context: Context, language: Language) -> str | None:
    if sign := re.match(language.number_signs, text):
        amount = amounts.parse(text[sign.end() :], language)
        return None if amount is None else f"{language.number_sign} {amounts.spoken(amount, language)}"
    if text[-1].isalpha() and " " in text:
        millions, _, noun = text.rpartition(" ")
        return words.counted(int(millions.replace(" ", "")), Noun(noun, noun), language)
    if re.fullmatch(r"'?\d+'?s|'\d\d|\d+er", text):
        return _decade(text, language)
    if ratio := re.fullmatch(r"(\d+):(\d+)", text):
        if language.code == "fr":
            return None
        return language.against.join(words.cardinal(int(number), language) for number in ratio.groups())
    if match := _RANGE.fullmatch(text):
        return _range(match, context, language)
    if text.endswith("+"):
        amount = amounts.parse(text[:-1], language) if language.code == "en" else None
        return None if amount is None else f"{amounts.spoken(amount, language)} {language.plus}"
    if _YEAR.fullmatch(text) and not (language.code == "en" and context.precedes(_ENGLISH_COUNTED)):
        return words.year(int(text), language)
    amount = amounts.parse(text, language)
    if amount is None:
        return None
    spoken = amounts.spoken(amount, language, _counted_noun(amount, context, language), named=False)
    counted = re.match(_COUNTED_MILLIONS.get(language.code, "(?!)"), context.after)
    return (
        spoken + _of(int(amount.whole), counted[0][1:], language)
        if counted and not amount.fraction
        else spoken
    )


def _of(number: int, noun: str, language: Language) -> str:
    """What comes between "un million" and "habitants", without the space before the noun."""
    return words.link(number, Noun(noun, noun), language).rstrip() if number >= 1_000_000 else ""


def _decade(text: str, language: Language) -> str:
    number = int(re.sub(r"\D", "", text))
    spoken = words.year(number, language) if number >= 100 else words.cardinal(number, language)
    if language.code == "de":
        return spoken + "er"
    if not text.endswith("s"):
        return spoken if number > 9 else f"oh {spoken}"
    return spoken[:-1] + "ies" if spoken.endswith("y") else spoken + "s"


def _range(match: re.Match[str], context: Context, language: Language) -> str | None:
    if re.match("-[A-Z]", context.after):  # "1-800-FLOWERS"
        return None
    start, end = (amounts.parse(match[name], language) for name in ("start", "end"))
    if start is None or end is None:
        return None
    rising = float(f"{start.whole}.{start.fraction}") < float(f"{end.whole}.{end.fraction}")
    joint = language.to if rising else language.against
    return f"{amounts.spoken(start, language)}{joint}{amounts.spoken(end, language)}"


def _counted_noun(amount: amounts.Amount, context: Context, language: Language) -> Noun | None:
    """A nameless noun of the gender of what follows, as far as its ending tells: "veintiuna personas"."""
    scales = [
        (name, value) for name, value in language.scale_names.items() if name[0] == " " and len(name) > 4
    ]
    for name, value in scales:
        if context.precedes(re.escape(name[1:]) + r"\b") and value in language.scales and value > 1000:
            return Noun("", "", language.scales[value].gender)
    if amount.fraction or amount.sign not in ("", "~"):
        return None
    if context.follows(_LABELS.get(language.code, "(?!)")) or (language.code == "it" and amount.whole != "1"):
        return None
    if context.precedes(language.feminine):
        return Noun("", "", "f")
    one_of = (
        language.code == "es"
        and amount.whole == "1"
        and context.precedes(rf"{language.masculine}|{_SPANISH_SINGULAR}")
    )
    if one_of or context.precedes(language.masculine):
        following = re.match(r" (\w+)", context.after)
        return Noun(following[1] if following else "", "")
    return None
