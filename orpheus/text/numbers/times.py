"""Times of day: "9:30" → "nine thirty"."""

from __future__ import annotations

import re

from orpheus.text.numbers import words
from orpheus.text.numbers.kind import Context
from orpheus.text.numbers.language import Language

_HOUR, _MINUTE = r"(?:2[0-4]|[01]?\d)", r"[0-5]\d"
_HALF = r"(?:[AaPp]\.[Mm]\b|[AaPp][Mm]\b)"
_TIME = re.compile(
    rf"(?P<label>\D*?)(?P<hour>\d{{1,2}})(?:(?: ?h ?|[:.])(?P<minute>{_MINUTE}))?(?P<suffix> ?[^\W\d][^-\d]*)?"
)


def pattern(language: Language) -> str:
    return (
        language.clock_time.replace("{clock}", rf"{_HOUR}:{_MINUTE}")
        .replace("{hour}", _HOUR)
        .replace("{half}", _HALF)
    )


def read(text: str, context: Context, language: Language) -> str | None:
    times = [_TIME.fullmatch(part) for part in text.split("-")]
    matches = [time for time in times if time]
    if len(matches) != len(times):
        return None
    half, alone = re.search(rf"{_HALF}$", text) is not None, len(matches) == 1
    return language.to.join(_time(time, context, language, half=half, alone=alone) for time in matches)


def _time(time: re.Match[str], context: Context, language: Language, *, half: bool, alone: bool) -> str:
    hour, minute = int(time["hour"]), int(time["minute"] or 0)
    suffix = (time["suffix"] or "").strip()
    noun = language.hours
    hours = words.cardinal(hour, language)
    if noun is not None:
        hours = words.agree(hours, noun, language)
    if language.code == "ko" and 1 <= hour <= 12:
        hours = words.native_korean(hour)
    minutes = words.cardinal(minute, language)
    name = words.plural(hour, noun, language) if noun else ""
    exact, with_minutes = language.time
    if language.code == "en":
        return _english(hour, minute, hours, minutes, suffix, half=half)
    if language.code in ("es", "it") and suffix:
        # "las nueve horas", "las veintiuna treinta horas"; only the symbol of the hour is not said with minutes
        if not minute:
            with_name = f"{hours} {name}"
            return time["label"] + (with_name if language.code == "es" else hours)
        return (
            f"{hours} {minutes} {name}"
            if suffix.startswith("hora")
            else with_minutes.format(h=hours, m=minutes)
        )
    has_article = context.follows(r"las?|alle|dalle|ore|le|delle|verso le") or time["label"]
    has_article = has_article or context.precedes(r"[ap]\. ?m\b")
    if not minute and language.code in ("es", "it") and (has_article or not alone):
        return time["label"] + hours
    return time["label"] + (with_minutes if minute else exact).format(h=hours, m=minutes, hours=name)


def _english(hour: int, minute: int, hours: str, minutes: str, suffix: str, *, half: bool) -> str:
    after = f" {suffix}" if suffix else ""
    if not minute and hour in (0, 24) and not half:
        return "midnight"
    if not hour:
        hours = "twelve" if half else hours
    if minute:
        return f"{hours} {'oh ' if minute < 10 else ''}{minutes}{after}"
    if half:
        return hours + after
    return f"{hours} o'clock" if hour <= 12 else f"{hours} hundred"
