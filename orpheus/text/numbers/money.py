"""Amounts of money: "$1.2M" → "one point two million dollars"."""

from __future__ import annotations

import re
from functools import lru_cache

from orpheus.text.numbers import amounts, words
from orpheus.text.numbers.amounts import Amount
from orpheus.text.numbers.kind import Context, unnamed
from orpheus.text.numbers.language import Currency, Language, Noun, alternatives

_CODES = {
    "USD": "US$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹", "KRW": "₩", "CAD": "C$", "AUD": "A$", "NZD": "NZ$",
    "HKD": "HK$", "SGD": "S$", "BRL": "R$", "RUB": "₽", "BTC": "₿", "RMB": "CNY", "Rs.": "₹", "Rs": "₹", "CA$": "C$",
    "AU$": "A$", "US $": "US$",
}  # fmt: skip


_ENGLISH_PRICED = (
    r"(?:bill|note|coin|fee|fine|gift|ticket|check|cheque|deal|discount|loan|tip|budget|investment|project|house|donation"
    r"|contract|deposit|lawsuit|bonus|credit|voucher|coupon|prize|salary|raise|grant|reward|bet|charge|plan|limit|one)\b"
)


def pattern(language: Language) -> str:
    return unnamed(_expression(language).pattern)


@lru_cache
def _expression(language: Language) -> re.Pattern[str]:
    number = amounts.pattern(language)
    symbols = alternatives((*language.currencies, *_CODES))
    names = alternatives((*language.currencies, *_CODES, *_by_name(language)))
    scale = rf"(?:{alternatives(_scale_names(language))})(?![^\W_])"
    per = rf"/(?:{alternatives(language.per_units)})(?!\w)"
    # The scale is possessive: never an amount without the million that follows it.
    return re.compile(
        rf"(?P<sign>[-+~])?(?P<before>{symbols}) ?(?P<minus>-)?(?P<sum>{number})(?P<scale>{scale})?+"
        rf"(?:-(?P<again>{symbols})?(?P<end>{number})(?P<end_scale>{scale})?+)?(?P<per>{per})?"
        rf"|(?P<sign_>[-+±~])?(?P<sum_>{number})(?P<scale_>{scale})?(?:-(?P<end_>{number})(?P<end_scale_>{scale})?)?"
        rf" ?(?P<after>{names})(?![^\W_가-힣])(?P<per_>{per})?"
    )


@lru_cache
def _scale_names(language: Language) -> dict[str, int]:
    """A symbol may stand apart, a word be joined: "$1.5 m", "$3-million"."""
    names = language.scale_names
    apart = {f" {name}": value for name, value in names.items() if len(name) <= 2}
    joined = {f"-{name[1:]}": value for name, value in names.items() if name[0] == " " and len(name) > 4}
    return apart | joined | names


def read(text: str, context: Context, language: Language) -> str | None:
    match = _expression(language).fullmatch(text)
    if match is None:
        return None
    found = match.groupdict()
    if found["before"] is None:
        found |= {name: found[f"{name}_"] for name in ("sign", "sum", "scale", "end", "end_scale", "per")}
    currency = _currency(found["before"] or found["after"], language)
    if currency is None or re.match(f"-{currency.unit.singular}", context.after):  # "$1-million-dollar"
        return None
    sign = found["sign"] or found["minus"] or ""
    if found["before"] and language.decimal == "," and re.fullmatch(r"\d{1,3}(?:,\d{3})+", found["sum"]):
        found["sum"] = found["sum"].replace(",", "")  # "$1,500" is written as in English
    amount = amounts.parse(sign + found["sum"], language, foreign=True)
    end = amounts.parse(found["end"], language, foreign=True) if found["end"] else None
    if amount is None or (found["end"] and end is None):
        return None
    if end is None:
        if language.code == "en" and (context.precedes(_ENGLISH_PRICED) or re.match("-[a-z]", context.after)):
            name = currency.unit.singular
            currency = currency._replace(unit=Noun(name, name))  # "a twenty dollar bill"
        spoken = _price(amount, found["scale"], currency, language)
    else:
        last = _price(end, found["end_scale"], _currency(found["again"], language) or currency, language)
        if found["again"] or found["scale"]:
            first = _price(amount, found["scale"], currency, language)
        else:
            first = amounts.spoken(amount, language)
        spoken = first and last and f"{first}{language.to}{last}"
    if spoken and found["per"]:
        name = language.per_units[found["per"][1:]]
        # Italian: "al mese", "all'ora", "a notte"
        spoken += f" {name}" if name.startswith(("a ", "all'")) else f" {language.per} {name}"
    return spoken


@lru_cache
def _by_name(language: Language) -> dict[str, Currency]:
    """Currencies that are spelled out: "2,3 Mrd. Euro"."""
    plain = [currency for symbol, currency in language.currencies.items() if symbol in "$€£¥₹₩"]
    return {name: currency for currency in plain for name in currency.unit[:2]}


def _currency(symbol: str | None, language: Language) -> Currency | None:
    found = language.currencies.get(_CODES.get(symbol or "", symbol or ""))
    return found or _by_name(language).get(symbol or "")


def _price(amount: Amount, scale_name: str | None, currency: Currency, language: Language) -> str | None:
    unit, hundredth = currency
    if scale_name:
        return _scaled_price(amount, _scale_names(language)[scale_name], currency, language)
    if len(amount.fraction) != 2 or hundredth is None or len(amount.whole) > amounts.MAX_CARDINAL_DIGITS:
        return amounts.spoken(amount, language, unit)
    cents = int(amount.fraction)
    whole = Amount(amount.sign, amount.whole, "", amount.grouped)
    if not cents:
        return amounts.spoken(whole, language, unit)
    if not int(amount.whole):
        return amounts.spoken(Amount(amount.sign, amount.fraction, "", grouped=True), language, hundredth)
    return (
        amounts.spoken(whole, language, unit)
        + language.conjunction
        + words.counted(cents, hundredth, language)
    )


def _scaled_price(amount: Amount, scale: int, currency: Currency, language: Language) -> str | None:
    if scale == 1000 or not language.scales:
        thousands = amounts.scaled(amount, scale)
        return None if thousands is None else amounts.spoken(thousands, language, currency.unit)
    scales = language.scales | language.more_scales
    if scale not in scales:  # "$2.3bn" is two thousand three hundred million in Spanish
        thousands = amounts.scaled(amount, 1000)
        return None if thousands is None else _scaled_price(thousands, scale // 1000, currency, language)
    return (
        amounts.spoken(amount, language, scales[scale])
        + words.link(scale, currency.unit, language)
        + currency.unit.plural
    )
