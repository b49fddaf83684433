"""Citation marks, "of France.[1]", 【4†source】: recognized where they stand, by what stands around them.

A number in brackets is read where it is a word of its sentence ("see [1]", "the list [1, 2, 3]"), the index of a name
(`f[i]`, `x_1[2]`, `items[0]`) or the beginning of a line. IncomingText, which knows what came before, leaves the marks out.
"""

from __future__ import annotations

import re

OPENERS = "¹²³⁴⁵⁶⁷⁸⁹⁰⁽†‡【\ue200"  # besides "["
CONTEXT_CHARS = 24  # looked at before a mark

_SPACE = "[ \u00a0\u202f]?"
_NUMBERS = r"\d{1,3}(?:\s?[,;–-]\s?\d{1,3}){0,20}"
# Wikipedia's.
_REMARKS = (
    "citation needed", "clarification needed", "verification needed", "better source needed", "when?", "who?", "which?",
    "where?", "why?", "by whom?", "according to whom?", "dubious", "update", "réf. nécessaire", "cita requerida",
    "citazione necessaria", "senza fonte", "출처 필요", "来源请求", "उद्धरण चाहिए", "cite_start", "cite_end",
)  # fmt: skip
_NOTE_NAMES = r"(?:note|nb|n|nota|ref|Anm\.|oaicite:)\s?"
_NOTES = rf"{'|'.join(map(re.escape, _REMARKS))}|{_NOTE_NAMES}\d{{0,4}}|cite:[^\[\]\n]{{1,100}}"
_MARK = rf"\[{{1,2}}(?:{_NUMBERS}|{_NOTES}|\^\d{{1,3}}\^)\]{{1,2}}(?:\((?:https?://|#)[^\s()]{{1,500}}\))?"
_MARKS = re.compile(rf"{_MARK}(?:[,;–-]?{_SPACE}{_MARK}){{0,20}}", re.IGNORECASE)
_MARKS_BEGUN = re.compile(
    rf"(?:{_MARK}[,;–-]?{_SPACE}){{0,21}}(?:\[{{1,2}}(?P<remark>[^\[\]\n\d]{{0,24}}|{_NOTE_NAMES}\d{{0,4}}|cite:[^\[\]\n]{{0,100}}"
    r"|\^?[\d\s,;–-]{0,150}\^?)(?:\]{1,2}(?:\((?:[h#][^\s()]{0,500})?)?)?)?\Z",
    re.IGNORECASE,
)
_NUMBERED_NOTE = re.compile(rf"{_NOTE_NAMES}\d{{1,4}}", re.IGNORECASE)
_LETTER = re.compile(r"\[[a-z]\]")
_AFTER_STOP = re.compile("[.,;:!?\"”'’)。！？।][\"”'’)]?\\Z")
_SUPERSCRIPTS = re.compile("⁽?[¹²³⁴⁵⁶⁷⁸⁹⁰]{1,3}(?:[,˒][¹²³⁴⁵⁶⁷⁸⁹⁰]{1,3}){0,9}⁾?|[†‡]{1,3}")
_SUPERSCRIPTS_BEGUN = re.compile("[⁽¹²³⁴⁵⁶⁷⁸⁹⁰˒,†‡]{1,40}\\Z")
# ChatGPT's: 【4†source】, and private-use characters around names such as turn0search1.
_SOURCE = re.compile(
    "【\\d{1,4}(?:[:-]\\d{1,4})?(?:†[^【】\n]{0,200})?】|\ue200[^\ue200\ue201\n]{0,300}\ue201"
)
_SOURCE_BEGUN = re.compile(
    "【\\d{0,4}(?:[:-]\\d{0,4})?(?:†[^【】\n]{0,200})?\\Z|\ue200[^\ue200\ue201\n]{0,300}\\Z"
)
_REFERENCES = re.compile(
    rf"{_SPACE}(?::contentReference\[oaicite:\d{{1,4}}\]\{{index=\d{{1,4}}\}}"
    r"|\b(?:cite)?(?:turn\d{1,3}(?:search|news|view|fetch|file|image|product)\d{1,3})+)"
)

_BEGINNINGS = (*_REMARKS, "note 1", "nb 1", "n 1", "nota 1", "ref 1", "anm. 1")
_NAMED = re.compile(
    r"(?:(?:^|[^\w\s]|(?<!\d)\s)[A-Za-z]|[^\W\d_]\d{1,3}|_\w{0,20}|\])\Z"
)  # a name, whose index the number is
# Words after which the number is a word too.
_REFERRING = re.compile(
    r"(?:^|\W)(?:as|per|in|of|see|by|from|and|or|to|with|at|on|is|are|was|like|the|an?|cf|refs?|references?|equations?|eq|items?"
    r"|steps?|options?|numbers?|lists?|arrays?|ranges?|intervals?|values?|between|than|version|page"
    r"|comme|dans|voir|de|et|ou|par|à|le|la|les|est|liste|selon|dit"
    r"|wie|siehe|und|oder|von|mit|ist|der|die|das|vgl|laut|nach|gemäß|in|bei|aus"
    r"|como|en|ver|véase|y|o|por|el|es|lista|según|con|dice|come|di|vedi|e|da|il|è|secondo|per)\.?\s\Z",
    re.IGNORECASE,
)
_REFERRING_UNSPACED = re.compile(r"(?:根据|依据|按照|参见|参考|详见|见于)\Z")
# Words after which the number counts what follows: "I got [3] apples", but "what we have [3]."
_COUNTING = re.compile(
    r"(?:^|\W)(?:have|has|had|got|gets?|bought|buys?|needs?|takes?|took|gives?|gave|me|us|him|her|them|only|about|exactly"
    r"|j'ai|as|a|avons|avez|ont|eu|acheté|me|te|lui|nous|vous|leur|seulement"
    r"|habe|hat|haben|hatte|bekam|bekomme|kaufte|brauche|mir|dir|ihm|ihr|uns|nur|etwa"
    r"|tengo|tiene|tienen|dio|compré|compró|necesito|te|le|nos|les|solo|ho|ha|abbiamo|hanno|preso|comprato|mi|ti|ci|solo)"
    r"\s\Z",
    re.IGNORECASE,
)
_COUNTED = re.compile(r"\s[^\W\d_]")
_CITED = re.compile("[\\w\u0900-\u0963%$€£¥₹°.,;:!?\"”'’)»*。！？।]\\Z")


def read(text: str, start: int, before: str) -> int:
    """The end of the citation that begins at `start`, after `before`; 0 if there is none."""
    if text[start] == "[":
        return _bracketed_end(text, start, before)
    if source := _SOURCE.match(text, start):
        return source.end()
    note = _SUPERSCRIPTS.match(text, start)
    return note.end() if note and is_note(note[0], before, text[note.end() : note.end() + 1]) else 0


def is_unfinished(text: str, start: int) -> bool:
    """Whether more text is needed to tell."""
    if marks := _MARKS_BEGUN.match(text, start):
        remark = (marks["remark"] or "").lower()
        return (
            not remark[:1].isalpha()
            or ":" in remark
            or bool(_NUMBERED_NOTE.fullmatch(remark))
            or any(known.startswith(remark) for known in _BEGINNINGS)
        )
    return bool(_SUPERSCRIPTS_BEGUN.match(text, start) or _SOURCE_BEGUN.match(text, start))


def is_note(superscript: str, before: str, after: str) -> bool:
    """Whether raised digits or daggers refer to a note: ² and ³ are powers after a short word (m², km³, log²)."""
    if after in ("⁻", "⁺", "/") or after.isdecimal():
        return False
    if _AFTER_STOP.search(before):
        return True
    word = re.search(r"[^\W\d_]*\Z", before)
    letters = len(word[0]) if word else 0
    return not after.isalpha() and letters >= (2 if superscript[0] in "¹†‡⁽" else 4)


def strip_references(text: str) -> str:
    """`text` without ChatGPT's names of sources. Before characters are normalized."""
    return _REFERENCES.sub("", text)


def _bracketed_end(text: str, start: int, before: str) -> int:
    if (letter := _LETTER.match(text, start)) and _AFTER_STOP.search(before):
        return letter.end()
    marks = _MARKS.match(text, start)
    if not marks:
        return 0
    end, spaced = marks.end(), before[-1:].isspace()
    after = text[end : end + 2]
    begins_line = not before.strip() or before.rstrip(" \t").endswith("\n")
    if begins_line and "](" not in marks[0]:  # a list's marker, not a link
        return 0
    continues = (
        after[:1] in ("=", "[", "(", "{", "_") or after == " =" or (after[:1] == "." and after[1:].islower())
    )
    counts_from_zero = re.match(r"\[0[\],]", marks[0])  # nobody numbers sources so
    if spaced:
        is_word = ("^" not in marks[0] and _REFERRING.search(before)) or (
            _COUNTED.match(after) and _COUNTING.search(before)
        )
    else:
        is_word = _NAMED.search(before) or _REFERRING_UNSPACED.search(before)
    return 0 if continues or counts_from_zero or is_word or not _CITED.search(before.rstrip()) else end
