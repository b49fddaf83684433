"""What the rules for numbers need to know of a language; `languages/` holds one table each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Noun(NamedTuple):
    """Something that is counted."""

    singular: str
    plural: str
    gender: str = "m"  # or "f", or "n"


class Currency(NamedTuple):
    unit: Noun
    hundredth: Noun | None = None  # None: it is not used, or named after the decimals


@dataclass(frozen=True, eq=False)
class Language:
    code: str
    group: str  # between thousands; a space is understood in every language
    decimal: str  # the decimal mark
    point: str  # the word for it
    minus: str
    plus: str
    plus_minus: str
    about: str  # for "~5"
    percent: str
    to: str  # in "5-10"
    against: str  # in "16:9" and "3-1"; "" leaves them alone
    per: str  # in "$5/month"
    conjunction: str  # between units and hundredths of a currency
    of: str  # between a million and what it counts
    scales: dict[int, Noun]  # from 1,000 up, the largest first
    scale_names: dict[str, int]  # as written after an amount: "bn", "Mio.", "million"
    currencies: dict[str, Currency]  # by symbol or code
    units: dict[str, Noun]  # by symbol, degrees and percent included
    number_sign: str  # "#5", "No. 5"
    number_signs: str  # regular expression of what stands for it
    clock_time: str  # regular expression; {clock} is hours and minutes, {hour} hours, {half} a.m. or p.m.
    time: tuple[str, str]  # a full hour, and with minutes: {h} {m} {hours}
    months: str  # regular expression
    code_words: str  # regular expression of what precedes a number that is a code
    emergency_words: str  # and of what precedes an emergency number that is read by digits
    hours: Noun | None = None  # what the hours of a time are counted in
    decimal_pairs: bool = False  # whether "3,14" is "three point fourteen"
    emergency_number: str = "(?!)"  # regular expression of one that is always read by digits
    labelled_codes: str = "(?!)"  # regular expression of what a number in pairs of digits follows: "room 101"
    more_scales: dict[int, Noun] = field(default_factory=dict)  # said only of what is written so: lakh, crore
    per_units: dict[str, str] = field(default_factory=dict)  # "/month" → "month"
    feminine: str = ""  # regular expression of nouns after a number
    masculine: str = ""


def alternatives(names: Iterable[str]) -> str:
    """A regular expression that matches one of `names`, the longest first."""
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)"
