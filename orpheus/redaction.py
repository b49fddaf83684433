"""Text for a log or a console without the secrets in it: keys, tokens, and the user, password and query of addresses.

A secret may be written in a way that no rule here knows, so the values of our own settings are also removed literally.
Every rule takes time linear in the text, which a client may have chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

HIDDEN = "…"
LEAST_CHARS = 6  # of a value that is removed wherever it stands: a shorter one would be found in any word

_NAMES = (
    r"(?:proxy[-_])?authorization|(?:set-)?cookie2?|[\w-]{0,32}api[-_]?keys?|(?:modal|proxy)[-_](?:key|secret)"
    r"|auth[-_]id|(?:access|auth|hf|bearer|refresh|id)[-_]?token|client[-_]secret|passw(?:or)?d"
)
_RULES = (
    # user:password@ of an address, even where the password itself has an "@"
    (re.compile(r"\b([a-z][a-z0-9+.-]{0,20}://)[^\s/?#\"'<>]*@", re.IGNORECASE), r"\1"),
    # the values of a query: any name in it may be one that carries a key, percent-encoded or not
    (re.compile(r"([?&][^\s?&=#\"'<>]{1,256}=)[^\s&#\"'<>]+"), rf"\1{HIDDEN}"),
    # name: value to the end of the line, as headers are written, or to the end of the quoted string
    (
        re.compile(rf"(?<![a-z0-9])({_NAMES})(\s*:\s*)(?![\s\"'{HIDDEN}])[^\r\n\"']+", re.IGNORECASE),
        rf"\1\2{HIDDEN}",
    ),
    (
        re.compile(rf"(?<![a-z0-9])({_NAMES})(\s*=\s*)(?![\s\"'])[^\s&,;\"'\\]+", re.IGNORECASE),
        rf"\1\2{HIDDEN}",
    ),
    (
        re.compile(r"(?<![a-z0-9])(key|token|secret)(=)(?![\s\"'])[^\s&,;\"'\\]+", re.IGNORECASE),
        rf"\1\2{HIDDEN}",
    ),
    # 'name': 'value', "name": "value" and (b'name', b'value'), as Python and JSON write them
    (
        re.compile(
            rf"((?:{_NAMES})\\?[\"']?\s*[:=,]\s*b?(\\?[\"']))(?:(?!\2)[^\r\n])+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\b(bearer|basic)(\s+)[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    # tokens that their makers marked: Hugging Face's, OpenAI's, Modal's
    (re.compile(r"\b(hf_|sk-|wk-|ws-)[\w-]{8,}"), rf"\1{HIDDEN}"),
)


class Redactor:
    """Removes what the rules above recognise, and these values."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        known = {
            form for value in values for form in (value, quote(value, safe="")) if len(value) >= LEAST_CHARS
        }
        longest_first = sorted(known, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if known else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
        return text


redacted = Redactor()


def address(url: str) -> str:
    """A URL without user, password, query and fragment: what a log or a console may show of it."""
    return re.split(r"[?#]", redacted(url), maxsplit=1)[0]
