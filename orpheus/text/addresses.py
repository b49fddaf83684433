"""Web and e-mail addresses in a text → the words a person says for them, in the text's language.

Knows nothing of Markdown. "https://www.example.com/pricing?x=1" is read "example dot com slash pricing".
"""

from __future__ import annotations

import re

# dot, slash, at, underscore
_SAID: dict[str, tuple[str, str, str, str]] = {
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
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,10}}"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL}){{1,10}}"
# Without a scheme only endings that are no words: "the end.He left" is no address.
_BARE_ENDING = r"(?:com|org|net|edu|gov|io|dev|ai|app|info|eu|de|fr|es|kr|cn|jp|uk)"
_PATH = r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%À-ɏ-]"
_BEFORE = r"(?<![\w.@/-])"

_MAIL = re.compile(
    rf"(?:\bmailto:|(?<![\w.+%-]))(?P<user>[\w+%-](?:[\w.+%-]{{0,62}}[\w+%-])?)@(?P<mail>{_DOMAIN})",
    re.IGNORECASE,
)
_URL = re.compile(
    rf"(?:(?<![A-Za-z0-9])(?:https?|ftp|wss?)://(?:[^\s/@<>]{{1,100}}@)?|{_BEFORE}(?=www\.))(?P<host>{_HOST})(?P<port>:\d{{1,5}})?"
    rf"(?P<path>[/?#]{_PATH}*)?"
    rf"|{_BEFORE}(?P<bare>(?:{_LABEL}\.){{1,8}}{_BARE_ENDING})(?![\w@-]|\.\w)(?P<bare_path>/{_PATH}*)?",
    re.IGNORECASE,
)
_READABLE = re.compile(r"[A-Za-zÀ-ɏ-]{1,20}|\d{1,4}")
_MOST_PARTS = 3  # of a path; a longer one is for machines
_AFTER = ".,;:!?'\")]*"  # ends the sentence, not the address


def spell(text: str, language: str) -> str:
    """`text` with its addresses as words."""
    dot, slash, at, underscore = _SAID.get(language, _SAID["en"])

    def words(name: str) -> str:
        return name.replace(".", f" {dot} ").replace("_", f" {underscore} ")

    def mail(match: re.Match[str]) -> str:
        return f"{words(match['user'])} {at} {words(match['mail'])}"

    def url(match: re.Match[str]) -> str:
        host = match["host"] or match["bare"]
        path = match["path"] or match["bare_path"] or ""
        address = path.rstrip(_AFTER)
        said = words(re.sub(r"^www\.", "", host, flags=re.IGNORECASE))
        if match["port"]:
            said += f" {match['port'][1:]}"
        parts = [part for part in re.split(r"[?#]", address[:200])[0].split("/") if part]
        if len(parts) <= _MOST_PARTS and all(map(_READABLE.fullmatch, parts)):
            said += "".join(f" {slash} {part.replace('-', ' ')}" for part in parts)
        return said + path[len(address) :]

    if "." in text or "://" in text:
        text = _URL.sub(url, text)  # first: a name and password before a host are no mail address
    return _MAIL.sub(mail, text) if "@" in text else text
