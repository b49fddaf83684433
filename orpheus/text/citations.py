"""Citation marks, "of France.[1]": left out, with the space before them; what stands around them stays as it is.

A number in brackets is read where it is a word of its sentence ("see [1]", "[1, 2, 3] is a list", `f[i]`, `items[0]`) or
begins a line.
"""

from __future__ import annotations

import re

_SPACE = r"[ \u00a0]?"
# ChatGPT's, as its API and its page write them: "turn0search1" between private-use characters, 【4†source】.
_PRIVATE = re.compile(
    r"[ \u00a0]?(?:\ue200[^\ue200\ue201\n]{0,300}\ue201|:contentReference\[oaicite:\d{1,4}\]\{index=\d{1,4}\}"
    r"|【\d{1,4}(?:[:-]\d{1,4})?(?:†[^【】\n]{0,200})?】|\[?\boaicite:\d{1,4}\]?|\[cite:[^\[\]\n]{1,100}\]"
    r"|\[(?:cite_start|cite_end)\]|\b(?:cite)?(?:turn\d{1,3}(?:search|news|view|fetch|file|image|product)\d{1,3})+)"
)
_NUMBERS = r"\d{1,3}(?:\s?[,;–-]\s?\d{1,3}){0,20}"
_NOTES = (
    r"citation needed|clarification needed|verification needed|better source needed|when\?|who\?|which\?|where\?|why\?|by whom\?"
    r"|according to whom\?|dubious|dubious . discuss|update|sic|(?:note|nb|n|nota|ref|réf\. nécessaire|cita requerida"
    r"|citazione necessaria|senza fonte|Anm\.|출처 필요|来源请求|उद्धरण चाहिए)\s?\d{0,3}"
)
_MARK = rf"\[{{1,2}}(?:{_NUMBERS}|{_NOTES})\]{{1,2}}(?:\(https?://[^\s()]{{1,500}}\))?"
_CITATIONS = re.compile(
    rf"`[^`\n]{{1,300}}`|(?P<space>{_SPACE})(?P<marks>{_MARK}(?:,?{_SPACE}{_MARK}){{0,20}})", re.IGNORECASE
)
_LETTER_NOTE = re.compile(r"(?<=[.,;!?\"”])\[[a-z]\](?!\w)")
_INDEX = re.compile(r"\[0[\],]")  # nobody counts sources from nothing
# An identifier, whose index the number is.
_INDEXED = re.compile(r"(?:(?:^|\W)[^\W\d_]|[^\W\d]\d{1,3}|_|\])\Z")
# Words after which the number is a word too.
_REFERRING = re.compile(
    r"(?:^|\W)(?:in|of|see|by|from|and|or|to|with|at|on|is|are|was|like|the|an?|cf|refs?|references?|equations?|eq|items?"
    r"|steps?|options?|numbers?|lists?|arrays?|ranges?|intervals?|values?|between|than|version|page"
    r"|dans|voir|de|et|ou|par|à|le|la|les|est|liste|in|siehe|und|oder|von|mit|ist|der|die|das|liste|vgl"
    r"|en|ver|véase|y|o|por|el|es|lista|di|vedi|e|da|il|è)\.?\Z",
    re.IGNORECASE,
)
_BEFORE_CHARS = 20
# ² and ³ are powers after a short word (m², km², log²), ¹ never is.
_SUPERSCRIPTS = re.compile(
    r"(?:(?<=[.,;:!?\"”)])|(?<=[^\W\d_]{2})(?=¹)|(?<=[^\W\d_]{4}))[⁽]?[¹²³⁴⁵⁶⁷⁸⁹⁰]{1,3}(?:[,⁻˒][¹²³⁴⁵⁶⁷⁸⁹⁰]{1,3}){0,5}[⁾]?(?![ʳᵗⁿˢ⁺⁻\w])"
)
_DAGGERS = re.compile(r"(?<=[\w.,;:!?\"”)])[†‡]+")


def strip_tokens(text: str) -> str:
    """`text` without the marks of chat pages. Before characters are normalized: some are private-use."""
    return _PRIVATE.sub("", text)


def strip(text: str) -> str:
    """`text` without citation marks. Linear in the text."""
    if "[" in text:
        text = _LETTER_NOTE.sub("", _CITATIONS.sub(_without, text))
    return text if text.isascii() else _DAGGERS.sub("", _SUPERSCRIPTS.sub("", text))


def _without(match: re.Match[str]) -> str:
    if not match["marks"]:  # code
        return match[0]
    text, start, end = match.string, match.start(), match.end()
    before, after = text[max(0, start - _BEFORE_CHARS) : start], text[end : end + 2]
    begins_line = (not before or before[-1] == "\n") and "](" not in match["marks"]  # a list's marker, not a link
    is_word = _REFERRING.search(before) if match["space"] else _INDEXED.search(before)
    continues = after[:1] in ("=", "[", "(", "_") or after in (" =", ".=") or (after[:1] == "." and after[1:].islower())
    if begins_line or is_word or continues or _INDEX.match(match["marks"]):
        return match[0]
    if match["space"] and not re.search(r"[\w.,;:!?\"”'’)»*。！？]\Z", before):
        return match[0]
    return " " if after[:1].isalnum() else ""
