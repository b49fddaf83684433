"""Ordinal numbers, as each language writes them: "3rd", "1.º", "der 3. Mai", "XXe", "3번째"."""

from __future__ import annotations

import re
from itertools import pairwise

from orpheus.text.numbers import plain, words
from orpheus.text.numbers.kind import Context
from orpheus.text.numbers.language import Language

_ROMAN_DIGITS = {"I": 1, "V": 5, "X": 10, "L": 50}
_ROMAN = "[IVXL]{1,7}"

# German: the ending depends on the word before and, without one, on the gender of the noun.
_GERMAN_STRONG = {
    "er": "Platz|Weltkrieg|Stock|Tag|Geburtstag|Teil|Schritt|Rang|Akt|Band|Satz|Gang|Advent|Juli|Versuch|Punkt|Jahrestag",
    "e": "Klasse|Etage|Runde|Liga|Bundesliga|Auflage|Person|Woche|Halbzeit|Staffel|Folge|Generation|Ausgabe|Reihe",
    "es": "Jahrhundert|Kapitel|Quartal|Semester|Mal|Obergeschoss|Jahr|Spiel|Buch|Jahrtausend|Lebensjahr",
}
_GERMAN_WEAK_E = "der|die|das|ins|jede|jeder|jedes|eine|diese|dieser|dieses|welche|welcher"
_GERMAN_WEAK_EN = (
    "am|im|vom|zum|zur|beim|den|dem|des|einem|einen|einer|seit|ab|bis|seinem|ihrem|meinem|seinen|ihren|meinen"
    "|(?:in|auf|von|zu|mit|nach|bei|an|aus|vor|während|wegen|Ende|Anfang|Mitte|seit|ab) der"
)
_GERMAN_NEW_SENTENCE = (
    "Er|Sie|Es|Wir|Ich|Ihr|Du|Der|Die|Das|Den|Dem|Ein|Eine|Und|Aber|Dann|Danach|Da|Dort|Hier|Heute|Morgen|Gestern|Am|Im"
    "|In|Auf|Mit|Bei|Nach|Vor|Für|Wenn|Als|Was|Wer|Wie|Wo|Warum|Ja|Nein|Doch|So|Nun|Jetzt|Mein|Sein|Alle|Man|Kein|Bitte|Denn"
)
_KOREAN_COUNTERS = "번째|개월|시간|가지|마리|사람|그루|송이|켤레|그릇|조각|군데|살|명|개|시|잔|병|장|권|대|달|분(?!의|기)|벌|채|척|곡|통|판"
_KOREAN_ROUGHLY = {"1~2": "한두", "2~3": "두세", "3~4": "서너"}
_KOREAN_SINO_COUNTERS = ("개월", "분")


def pattern(language: Language) -> str:
    match language.code:
        case "en":
            date = rf"{language.months} \d{{1,2}}(?!\d)|\d{{1,2}}(?= {language.months})"
            return rf"(?:\d{{1,3}}(?:,\d{{3}})+|\d{{1,6}})(?:st|nd|rd|th|ST|ND|RD|TH)|{date}"
        case "fr":
            century = (
                rf"{_ROMAN}(?:e|ème)(?= siècle| arrondissement| République| dynastie|-)|[XVI]{{2,7}}(?:e|ème)"
            )
            return rf"\d{{1,6}}(?:ers?|res?|ères?|èmes?|es?|nde?)|{century}|Ier|1(?= {language.months})"
        case "de":
            # With its full stop, unless that ends the sentence.
            return r"\d{1,3}\.(?= [^\W\d])|\d{1,3}(?=\.(?:\s|\Z|[\"')]))"
        case "es":
            return (
                rf"\d{{1,6}}(?:\.? ?[ºª]|\.?°|\.?er|ro|ra|do|da|to|ta|mo|ma|vo|va|no|na)|[Ss]iglos? {_ROMAN}"
            )
        case "it":
            return rf"\d{{1,6}}[ºª]|{_ROMAN}(?= secolo)|1(?= {language.months})"
        case "ko":
            return rf"(?:6|10)월|[1-9]\d?(?:[-~][1-9]\d?)? ?(?:{_KOREAN_COUNTERS})"
    return r"(?!)"


def read(text: str, context: Context, language: Language) -> str | None:
    match language.code:
        case "de":
            return _german(text, context, language)
        case "es":
            return _spanish(text, context, language)
        case "ko":
            return _korean(text, language)
    number = int("0" + re.sub(r"\D", "", text)) or _roman(text)
    if not number:
        return None
    if language.code == "en" and text[-1].isdecimal():
        return _english_date(text, number, context, language)
    ordinal = words.ordinal(number, language)
    ending = text.lstrip("0123456789,IVXL")
    if language.code == "fr":
        if ending.startswith("nd"):
            return ("seconde" if ending == "nde" else "second") if number == 2 else None
        if ending.startswith(("r", "èr")) and number != 1:
            return None
        return "première" if ending.startswith(("re", "ère")) else ordinal
    return ordinal[:-1] + "a" if ending == "ª" else ordinal


def _english_date(text: str, day: int, context: Context, language: Language) -> str | None:
    """ "May 5" is the fifth, and so is "5 May"."""
    if day > 31:
        return None
    ordinal = words.ordinal(day, language)
    if not text[0].isdecimal():
        return f"{text.split()[0]} {ordinal}"
    return f"{ordinal} of" if context.follows("the") else f"the {ordinal} of"


def _roman(text: str) -> int:
    values = [_ROMAN_DIGITS[letter] for letter in text if letter in _ROMAN_DIGITS]
    smaller = [value < later for value, later in pairwise([*values, 0])]
    return sum(-value if minus else value for value, minus in zip(values, smaller, strict=True))


def _german(text: str, context: Context, language: Language) -> str | None:
    number, stop = int(text.rstrip(".")), text.endswith(".")
    weak_en, weak_e = context.follows(_GERMAN_WEAK_EN), context.follows(_GERMAN_WEAK_E)
    if not stop:  # "Heute ist der 3." keeps its full stop
        if (weak_en or weak_e) and number < 100:
            return words.ordinal(number, language) + "n" * weak_en
        return plain.read(text, context, language)
    sentence_end = plain.read(text[:-1], context, language)
    if sentence_end is not None:
        sentence_end += "."
    stem = words.ordinal(number, language)
    month = context.precedes(language.months)
    if context.precedes(rf"(?:{_GERMAN_NEW_SENTENCE})\b") and not month:
        is_day = (weak_en or weak_e) and number < 100
        return stem + "n" * weak_en + "." if is_day else sentence_end
    if weak_en or weak_e:
        return stem + "n" * weak_en
    if context.follows(r"\w+(?:er|en|em|es)") and month:
        return stem + "r"
    for ending, nouns in _GERMAN_STRONG.items():
        if context.precedes(rf"(?:{nouns})\b"):
            return stem + ending[1:]
    return stem + "r" if month else sentence_end


_SPANISH_ORDINAL_ENDINGS = {
    "ro": (1, 3), "ra": (1, 3), "er": (1, 3), "do": (2,), "da": (2,), "to": (4, 5, 6), "ta": (4, 5, 6), "mo": (7, 10),
    "ma": (7, 10), "vo": (8,), "va": (8,), "no": (9,), "na": (9,),
}  # fmt: skip


def _spanish(text: str, context: Context, language: Language) -> str | None:
    if century := re.fullmatch(rf"([Ss]iglos? )({_ROMAN})", text):
        number = _roman(century[2])
        return century[1] + (words.ordinal if number < 10 else words.cardinal)(number, language)
    number, ending = int(re.sub(r"\D", "", text)), text.lstrip("0123456789. ")
    if (
        ending in _SPANISH_ORDINAL_ENDINGS
        and number % 10 not in _SPANISH_ORDINAL_ENDINGS[ending]
        and number < 11
    ):
        return None
    if not number:
        return None
    ordinal = words.ordinal(number, language)
    if ending in ("ª", "ra", "da", "ta", "ma", "va", "na"):
        return re.sub(r"o\b", "a", ordinal)
    before_noun = context.precedes(
        r"(?!de\b|y\b|en\b|del\b|a\b|que\b|o\b|es\b|con\b|para\b|por\b|al\b)[a-zñáéíóú]"
    )
    shortened = ordinal.endswith(("primero", "tercero")) and (ending == "er" or before_noun)
    return ordinal[:-1] if shortened else ordinal


def _korean(text: str, language: Language) -> str | None:
    """Native numbers before most things that are counted."""
    if re.fullmatch(r"\d+월", text):
        return "유월" if text[0] == "6" else "시월"
    match = re.fullmatch(rf"([\d~-]+) ?({_KOREAN_COUNTERS})", text)
    if match is None:
        return None
    numbers, counter = re.split("[-~]", match[1]), match[2]
    if (roughly := _KOREAN_ROUGHLY.get("~".join(numbers))) and counter not in _KOREAN_SINO_COUNTERS:
        return f"{roughly} {counter}"
    if counter == "대" and numbers[0].endswith("0"):  # an age: "50대"
        return words.cardinal(int(numbers[0]), language) + counter if len(numbers) == 1 else None
    native = counter not in _KOREAN_SINO_COUNTERS and not (counter == "시" and int(numbers[-1]) > 12)
    if not native:
        spoken = [words.cardinal(int(number), language) for number in numbers]
    else:
        spoken = [
            "첫" if counter == "번째" and number == "1" else words.native_korean(int(number))
            for number in numbers
        ]
    return language.to.join(spoken) + f" {counter}"
