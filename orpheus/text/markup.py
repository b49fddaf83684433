"""Markdown → what a person reads of it: one block a line, an empty line between paragraphs, no marks.

Knows nothing of sentences. A Markdown parser would also take ordinary text apart ("2 * 3 * 4", `foo_bar`, "[1]: x",
indented lines) and markdown-it needs 0.2 s for 4,096 characters of "![", on the event loop (2 CPU cores, 2026-11);
so only marks that nobody reads aloud are taken out, each by an expression that is linear in the text.
"""

from __future__ import annotations

import html
import re

_ITEM = "\x1e"  # begins a line that stands alone; characters.plain leaves none in a text

# A fence with the language of the code under it; with nothing under it, "```yes" is a word.
_FENCE = r"^(?:`{3,}|~{3,})(?: ?[\w+#.-]{1,20}(?=\n))?$"
_RULE = re.compile(rf"^(?:[-*_=~] ?){{3,}}$|{_FENCE}|^(?=[^\n]*\|)[ |:-]+$", re.MULTILINE)
_QUOTE = re.compile(r"^(?:> ?)+", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} +([^\n]+)$", re.MULTILINE)
_HEADING_END = re.compile(r" #+$", re.MULTILINE)
_BULLET = re.compile(r"^[-*+•‣▪◦·] (?:\[[ xX]\] )?(?=\S)", re.MULTILINE)
_NUMBERED = re.compile(r"^(?=\d{1,9}[.)] \S)", re.MULTILINE)  # its number is read
_ROW = re.compile(r"^\|([^\n]*)\|$", re.MULTILINE)
_CELLS = re.compile(r" ?\|[ |]*")

# A destination must look like one: "f[i](x)" is no link.
_LINK = re.compile(
    r"!?\[([^\[\]\n]{0,500})\]\((?:[a-z]{2,8}:|/|#|\.|www\.|[\w-]{1,60}(?:/|\.\w))[^\s()]{0,2000}"
    r"(?:\([^\s()]{0,200}\)[^\s()]{0,200})?(?: (?:\"[^\"\n]{0,200}\"|'[^'\n]{0,200}'))?\)",
    re.IGNORECASE,
)
_AUTOLINK = re.compile(
    r"<((?:https?|ftp|mailto):[^\s<>]{1,2000}|[\w.+%-]{1,64}@[^\s<>@]{1,255})>", re.IGNORECASE
)
_FOOTNOTE = re.compile(r"\[\^[\w-]{1,30}\]:?")
_RUN = re.compile(r"(?<![\\*_])(?:\*+|_+)")
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+.!|>~-])")
_ENTITY = re.compile(r"&(?:[A-Za-z]{2,31}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});")
_EMOTICON = re.compile(r"(?<!\S)[:;]'?-?[()\[\]|/*](?!\S)")
_EMPTY_BRACKETS = re.compile(r" ?(?:\( ?\)|\[ ?\])")

WRAPPED_FROM_CHARS = 50  # a shorter line before a capital was ended by its writer, not by a margin


def blocks(text: str) -> str:
    """One block a line: paragraphs, headings, list items, table rows. Links are their text."""
    text = _RULE.sub("", text)
    text = _QUOTE.sub("", text)
    text = _HEADING.sub(r"\n\1\n", text)
    text = _HEADING_END.sub("", text)
    text = _BULLET.sub(_ITEM, text)
    text = _NUMBERED.sub(_ITEM, text)
    text = _ROW.sub(lambda row: _ITEM + _CELLS.sub(", ", row[1].strip(" |")), text)
    text = _LINK.sub(r"\1", text)
    text = _AUTOLINK.sub(r"\1", text)
    return "\n".join(_joined(text.split("\n")))


def _joined(lines: list[str]) -> list[str]:
    """Lines that a margin broke are one again."""
    done: list[str] = []
    open_lines: list[str] = []  # of the block under way
    for line in lines:
        if open_lines and line and line[0] != _ITEM:
            short = len(open_lines[-1]) < WRAPPED_FROM_CHARS
            if not (short and not _goes_on(line)):
                open_lines.append(line)
                continue
        if open_lines:
            done.append(" ".join(open_lines))
            open_lines = []
        if line:
            open_lines.append(line.lstrip(_ITEM))
        elif done and done[-1]:
            done.append("")
    if open_lines:
        done.append(" ".join(open_lines))
    return done


def _goes_on(line: str) -> bool:
    return line[0].islower() or line[0] in ",;:.)!?-"


def inline(text: str) -> str:
    """`text` without the marks inside lines: emphasis, code, escapes, entities, emoticons."""
    text = _FOOTNOTE.sub("", text)
    if "*" in text or "_" in text:
        text = _RUN.sub(lambda run: _unless_read(run, text), text)
    text = text.replace("`", "").replace("~~", "")
    text = _ESCAPE.sub(r"\1", text)
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    text = _EMOTICON.sub("", text)
    return _EMPTY_BRACKETS.sub("", text)


def _unless_read(run: re.Match[str], text: str) -> str:
    """A run of stars or underscores where it means something, as in "2 * 3", `snake_case` and "f***"."""
    marks = run[0]
    before = text[run.start() - 1 : run.start()] if run.start() else ""
    after = text[run.end() : run.end() + 1]
    if len(marks) > 3:
        return " "
    if before in ("", " ", "\n") and after in ("", " ", "\n"):
        return marks
    if marks == "*" and before.isdigit():  # "a 5* hotel"
        return marks
    if before.isalnum() and after.isalnum():
        return "" if marks == "**" and before.isalpha() and after.isalpha() else marks
    return ""
