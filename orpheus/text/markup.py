"""Strips Markdown: a text → one block per line, an empty line between paragraphs, no markup.

Not a Markdown parser: that would also take ordinary text apart ("2 * 3 * 4", `foo_bar`, "[1]: x", indented lines), and
markdown-it blocks the event loop for 0.2 s on 4,096 characters of "![" (2 CPU cores, 2026-11). Only markup that nobody
would read aloud is removed, each kind by a regular expression that is linear in the text.
"""

from __future__ import annotations

import re

ITEM = "\x1e"  # begins a line that is a block by itself; characters.normalize removes it from the input

# A fence may name the language of the code below it; with nothing below, "```yes" is a word.
_FENCE = r"^(?:`{3,}|~{3,})(?: ?[\w+#.-]{1,20}(?=\n))?$"
_RULE = re.compile(rf"^(?:[-*_=~] ?){{3,}}$|{_FENCE}|^(?=[^\n]*\|)[ |:-]+$", re.MULTILINE)
_QUOTE = re.compile(r"^(?:> ?)+", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} +([^\n]+)$", re.MULTILINE)
_HEADING_END = re.compile(r" #+$", re.MULTILINE)
_BULLET = re.compile(r"^[-*+•‣▪◦·] (?:\[[ xX]\] )?(?=\S)", re.MULTILINE)
_NUMBERED = re.compile(r"^(?=\d{1,9}[.)] \S)", re.MULTILINE)  # the number is spoken
_ROW = re.compile(r"^\|([^\n]*)\|$", re.MULTILINE)
_CELLS = re.compile(r" ?\|[ |]*")

# The destination must look like one: "f[i](x)" is not a link.
_LINK = re.compile(
    r"!?\[([^\[\]\n]{0,500})\]\((?:[a-z]{2,8}:|/|#|\.|www\.|[\w-]{1,60}(?:/|\.\w))[^\s()]{0,2000}"
    r"(?:\([^\s()]{0,200}\)[^\s()]{0,200})?(?: (?:\"[^\"\n]{0,200}\"|'[^'\n]{0,200}'))?\)",
    re.IGNORECASE,
)
_AUTOLINK = re.compile(
    r"<((?:https?|ftp|mailto):[^\s<>]{1,2000}|[\w.+%-]{1,64}@[^\s<>@]{1,255})>", re.IGNORECASE
)
_FOOTNOTE = re.compile(r"\[\^[\w-]{1,30}\]:?")
_EMPHASIS = re.compile(r"(?<![\\*_])(?:\*+|_+)")
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+.!|>~-])")
_EMOTICON = re.compile(r"(?<!\S)[:;]'?-?[()\[\]|/*](?!\S)")
_EMPTY_BRACKETS = re.compile(r" ?(?:\( ?\)|\[ ?\])")

MIN_WRAPPED_CHARS = 50  # a shorter line followed by a capital was ended on purpose, not wrapped at a margin


def strip_blocks(text: str) -> str:
    """One block per line: paragraphs, headings, list items, table rows. Links become their text."""
    text = _RULE.sub("", text)
    text = _QUOTE.sub("", text)
    text = _HEADING.sub(r"\n\1\n", text)
    text = _HEADING_END.sub("", text)
    text = _BULLET.sub(ITEM, text)
    text = _NUMBERED.sub(ITEM, text)
    text = _ROW.sub(lambda row: ITEM + _CELLS.sub(", ", row[1].strip(" |")), text)
    text = _LINK.sub(r"\1", text)
    text = _AUTOLINK.sub(r"\1", text)
    return "\n".join(_unwrap(text.split("\n")))


def _unwrap(lines: list[str]) -> list[str]:
    """Join the lines that were wrapped at a margin."""
    blocks: list[str] = []
    current: list[str] = []  # lines of the block that is being collected
    for line in lines:
        if current and line and line[0] != ITEM:
            wrapped = len(current[-1]) >= MIN_WRAPPED_CHARS
            if wrapped or _is_continuation(line):
                current.append(line)
                continue
        if current:
            blocks.append(" ".join(current))
            current = []
        if line:
            current.append(line.lstrip(ITEM))
        elif blocks and blocks[-1]:
            blocks.append("")
    if current:
        blocks.append(" ".join(current))
    return blocks


def _is_continuation(line: str) -> bool:
    return line[0].islower() or line[0] in ",;:.)!?-"


def strip_inline(text: str) -> str:
    """`text` without the markup inside lines: emphasis, code, escapes, emoticons."""
    text = _FOOTNOTE.sub("", text)
    if "*" in text or "_" in text:
        text = _EMPHASIS.sub(lambda marks: _strip_emphasis(marks, text), text)
    text = text.replace("`", "").replace("~~", "")
    text = _ESCAPE.sub(r"\1", text)
    text = _EMOTICON.sub("", text)
    return _EMPTY_BRACKETS.sub("", text)


def _strip_emphasis(match: re.Match[str], text: str) -> str:
    """Keep stars and underscores that are not emphasis, as in "2 * 3", `snake_case` and "f***"."""
    marks = match[0]
    before = text[match.start() - 1 : match.start()] if match.start() else ""
    after = text[match.end() : match.end() + 1]
    if len(marks) > 3:
        return " "
    if before in ("", " ", "\n") and after in ("", " ", "\n"):
        return marks
    if marks == "*" and before.isdigit():  # "a 5* hotel"
        return marks
    if before.isalnum() and after.isalnum():
        return "" if marks == "**" and before.isalpha() and after.isalpha() else marks
    return ""
