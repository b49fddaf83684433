"""Verbalizes web and e-mail addresses: a text → the text with its addresses in words of its language.

"https://www.example.com/pricing?x=1" becomes "example dot com slash pricing".
"""

from __future__ import annotations

import re

from orpheus.text import scripts

# The words for dot, slash, at and underscore, by language.
_SYMBOL_WORDS: dict[str, tuple[str, str, str, str]] = {
    "en": ("dot", "slash", "at", "underscore"),
    "fr": ("point", "slash", "arobase", "tiret bas"),
    "de": ("Punkt", "Schrägstrich", "ät", "Unterstrich"),
    "es": ("punto", "barra", "arroba", "guion bajo"),
    "it": ("punto", "barra", "chiocciola", "trattino basso"),
    "ko": ("점", "슬래시", "골뱅이", "밑줄"),
    "hi": ("डॉट", "स्लैश", "ऐट", "अंडरस्कोर"),
    "zh": ("点", "斜杠", "艾特", "下划线"),
}

_LABEL = r"[A-Za-z0-9À-ɏ](?:[A-Za-z0-9À-ɏ_-]{0,62})"
# Of one script, so that a word which follows without a space is none: "https://example.com吧".
_ANY_LABEL = rf"(?:{_LABEL}|[^\W\d_A-Za-zÀ-ɏ]{{1,63}})"
_HOST = rf"{_ANY_LABEL}(?:\.{_ANY_LABEL}){{0,10}}"
_DOMAIN = rf"{_ANY_LABEL}(?:\.{_ANY_LABEL}){{1,10}}"
# Without a scheme, only top-level domains that are not words: "the end.He left" is not an address.
_BARE_TLD = r"(?:com|org|net|edu|gov|io|dev|ai|app|info|eu|de|fr|es|kr|cn|jp|uk)"
_PATH = r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%À-ɏ-]"
_BEFORE = r"(?<![\w.@/-])"

_MAIL = re.compile(
    rf"(?:\bmailto:|(?<![\w.+%-]))(?P<user>[\w+%-](?:[\w.+%-]{{0,62}}[\w+%-])?)@(?P<mail>{_DOMAIN})",
    re.IGNORECASE,
)
_URL = re.compile(
    rf"(?:(?<![A-Za-z0-9])(?:https?|ftp|wss?)://(?:[^\s/@<>]{{1,100}}@)?|{_BEFORE}(?=www\.))(?P<host>{_HOST})(?P<port>:\d{{1,5}})?"
    rf"(?P<path>[/?#]{_PATH}*)?"
    rf"|{_BEFORE}(?P<bare>(?:{_LABEL}\.){{1,8}}{_BARE_TLD})(?![\w@-]|\.\w)(?P<bare_path>/{_PATH}*)?",
    re.IGNORECASE,
)
_READABLE_PART = re.compile(r"[A-Za-zÀ-ɏ-]{1,20}|\d{1,4}")
_MAX_PATH_PARTS = 3  # a longer path is meant for machines, and is left out
_TRAILING_PUNCTUATION = ".,;:!?'\")]*"  # belongs to the sentence, not to the address


def verbalize(text: str, language: str) -> str:
    """`text` with its addresses in words; those of English for a language without its own."""
    dot, slash, at, underscore = _SYMBOL_WORDS.get(language, _SYMBOL_WORDS["en"])

    def name_words(name: str) -> str:
        return name.replace(".", f" {dot} ").replace("_", f" {underscore} ")

    def unspeakable(name: str) -> str:
        """The letters of `name` if it has some that are not spoken: they are counted and left out, and it with them."""
        return "".join(c for c in name if not c.isascii()) if scripts.leave_out(name, language)[1] else ""

    def mail_words(match: re.Match[str]) -> str:
        if letters := unspeakable(match["user"] + match["mail"]):
            return letters
        return f"{name_words(match['user'])} {at} {name_words(match['mail'])}"

    def url_words(match: re.Match[str]) -> str:
        host = match["host"] or match["bare"]
        path = match["path"] or match["bare_path"] or ""
        address = path.rstrip(_TRAILING_PUNCTUATION)
        if letters := unspeakable(host):
            return letters + path[len(address) :]
        words = name_words(re.sub(r"^www\.", "", host, flags=re.IGNORECASE))
        if match["port"]:
            words += f" {match['port'][1:]}"
        parts = [part for part in re.split(r"[?#]", address[:200])[0].split("/") if part]
        if len(parts) <= _MAX_PATH_PARTS and all(map(_READABLE_PART.fullmatch, parts)):
            words += "".join(f" {slash} {part.replace('-', ' ')}" for part in parts)
        return words + path[len(address) :]

    if "." in text or "://" in text:
        # URLs first: "user:password@host" in one of them is not a mail address.
        text = _URL.sub(url_words, text)
    return _MAIL.sub(mail_words, text) if "@" in text else text
