"""A text, whole or as it arrives → what of it is spoken: no reasoning, tool calls, comments and citation marks.

Pauses that it asks for become placeholders.

Language models and their templates mark what is not for the listener: `<think>…</think>`, `<tool_call>…</tool_call>`,
`[THINK]…[/THINK]`, `<|channel|>analysis<|message|>…<|end|>`. It is dropped with its marks as soon as it arrives. What
stands before it is let through at once; a mark that is not complete yet is held back, at most a few hundred characters.

A mark that is only written about is not one: in quotes or backticks, in a code block, or within a sentence ("the <think>
tag") where it is never closed. Its name is removed, like that of any unknown tag.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from orpheus.text import citations, pauses
from orpheus.text.sentences import length
from orpheus.text.stage_directions import StageDirections

_REASONING = re.compile(
    r"think|(?:ant)?thinking|thoughts?|thoughtprocess|reason|reasoning|scratchpad|analysis|(?:self)?reflection"
    r"|chainofthoughts?|cot|deliberation|(?:inner|internal)(?:monologue|thoughts?|voice|reasoning)"
)
# What programs tell each other: tool calls and results, and the parts of a page that no browser shows.
_MACHINE = re.compile(
    r"tools?|tool(?:calls?|uses?|responses?|results?|outputs?|code|request|content)(?:section)?|availabletools"
    r"|functions?|function(?:calls?|responses?|results?|outputs?)|invoke"
    r"|script|style|head|template|noscript|svg|iframe|ref"
)
_TOKENS = re.compile(r"action|pythontag")  # only as <|…|>
_PAUSES = ("break", "pause", "silence")

_OPENER = re.compile(rf"[<\[◁{citations.OPENERS}]")
_ELEMENT = re.compile(r"<\s?(?P<close>/?)\s?(?P<name>[A-Za-z][\w:-]{0,40})(?P<rest>(?:[\s=/][^<>]{0,300})?)>")
_ELEMENT_BEGUN = re.compile(
    r"<\s?/?\s?(?:[A-Za-z][\w:-]{0,40})?\Z|<\s?/?\s?(?P<name>[A-Za-z][\w:-]{0,40})[\s=/][^<>]{0,300}\Z"
)
_BRACKETED = re.compile(
    r"\[(?P<close>/?)(?P<name>THINK|TOOL_CALLS?|TOOL_RESULTS?|TOOL_CONTENT|AVAILABLE_TOOLS)\]", re.IGNORECASE
)
_BRACKETED_BEGUN = re.compile(r"\[[\s/]?[A-Za-z_]{0,16}\Z")
_TRIANGLES = re.compile(r"◁(?P<close>/?)(?P<name>think)▷")
_TRIANGLES_BEGUN = re.compile(r"◁/?[a-z]{0,5}\Z")
_TOKEN = re.compile(r"<[|｜](?P<name>[^<>|｜\n]{1,60})[|｜]>")
_TOKEN_BEGUN = re.compile(r"<[|｜][^<>|｜\n]{0,60}[|｜]?\Z")
_TOKEN_AFFIXES = re.compile(
    r"^(?P<close>/|end_of_|end_)|^(?:begin_of_|start_of_|begin_|start_)|(?P<end>_end)$|_(?:begin|start)$"
)
_END_TOKENS = frozenset(
    ("end", "call", "return", "eot_id", "eom_id", "im_end", "end_of_turn", "end_of_text", "endoftext")
)  # fmt: skip
# gpt-oss: a header up to <|message|> says whom a message is for.
_HEADER = re.compile(
    r"<\|(?:start|channel)\|>(?P<header>[^<>]{0,200}(?:<\|(?:channel|constrain)\|>[^<>]{0,100}){0,3})<\|message\|>"
)
_HEADER_BEGUN = re.compile(
    r"<\|(?:start|channel)\|>[^<>]{0,200}(?:<\|(?:channel|constrain)\|>[^<>]{0,100}){0,3}(?:<[|a-z]{0,14}\Z|\Z)"
)
_HIDDEN_HEADER = re.compile(r"analysis|\bto=|^ ?(?:system|developer|user|tool|ipython)\b")
# ChatML, Llama: who speaks.
_TURN = re.compile(
    r"<\|im_start\|>(?P<header>[a-z]{1,20}(?:[ :=][^<>\n]{0,40})?)(?:\n|(?=<))"
    r"|<\|start_header_id\|>(?P<header_>[^<>\n]{0,40})<\|end_header_id\|>"
)
_TURN_BEGUN = re.compile(
    r"<\|im_start\|>(?:[a-z]{1,20}(?:[ :=][^<>\n]{0,40})?)?\Z|<\|start_header_id\|>[^<>\n]{0,40}(?:<[|a-z_]{0,18})?\Z"
)

_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»", "„": "“"}
_WITHIN_SENTENCE = re.compile(r"[^\W\d_][,'\")]?[ \t]\Z")
_FENCE = re.compile(r"\s*(?:`{3,}|~{3,}) ?[\w+#.-]{0,20}\s*")
_FENCE_CHARS = 40
_SUP = re.compile(
    r"<sup(?:\s[^<>]{0,300})?>\s?(?:<a(?:\s[^<>]{0,500})?>)?\s?(?P<open>\[?)(?P<digits>\d{1,3})\]?\s?(?:</a>)?\s?</sup>",
    re.IGNORECASE,
)
_SUP_BEGUN = re.compile(
    r"<sup(?:\s[^<>]{0,300})?(?:>[\s\[\]\d]{0,8}(?:<[^<>]{0,500}>?[\s\[\]\d]{0,8}){0,3})?\Z", re.IGNORECASE
)
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_JOINS = tuple(".,;:!?)。，、；：！？।॥؟،؛۔։።፣၊။។།")  # needs no space before it
_ENDS_WORD = re.compile(r"(?<!\s)(?<!\A)[\"'](?!.)\Z|[^\s\"'(\[“„«¿¡]\Z")
_AFTER_PAUSE = re.compile(r"[\s.,;:!?。，、；：！？]*")  # the pause stands for it

_COMMENT, _COMMENT_END = "<!--", "-->"
_MESSAGE = "message"  # block of gpt-oss, ended by any of its tokens


class _Mark(NamedTuple):
    end: int
    kind: str  # "open", "close", "empty", "token" (ends a message), "pause", "citation", "text" (none at all)
    block: str = ""  # what it opens or closes
    text: str = ""  # what stands in its place


class IncomingText:
    """What is spoken of one text. Linear in its length, however it is cut."""

    def __init__(self, *, skip_directions: bool = False) -> None:
        self.removed_tags = 0  # marks that were dropped, each pair as one
        self._directions = StageDirections() if skip_directions else None
        self._text = ""  # received, and neither let through nor dropped
        self._context = ""  # the last characters let through
        self._inner = ""  # the last characters of the block that is open
        self._line = ""  # the beginning of the line they end in
        self._in_code = False  # after an odd number of backticks in that line
        self._fenced = False
        self._since_block = 0  # characters let through since a block ended
        self._after_block = self._after_pause = False
        self._block = ""  # open, and dropped until its end
        self._depth = 0
        # What follows a mark that may only have been written about; None if there is none.
        self._held: list[str] | None = None
        self._mentioned = ""  # the block that the mark would have opened
        self._at_mention = ("", "", False, False)

    @property
    def inside(self) -> bool:
        """Whether a block is open that is dropped, so that what came before it is complete."""
        return bool(self._block)

    @property
    def holds(self) -> bool:
        """Whether something that was appended is not let through."""
        return bool(
            self._block
            or self._text
            or self._held is not None
            or (self._directions and self._directions.held)
        )

    def append(self, spoken: str, text: str) -> str:
        """`spoken`, what was let through and not taken yet, with what of `text` is spoken.

        It loses its end if that proves to be reasoning whose beginning was not marked (`</think>` alone).
        """
        return self._pass(
            spoken, text if self._directions is None else self._directions.push(text), final=False
        )

    def end(self, spoken: str) -> str:
        """The same, with the rest: the text is complete."""
        spoken = self._pass(spoken, "" if self._directions is None else self._directions.end(), final=True)
        held, self._held, self._block = self._held, None, ""
        return "".join([spoken, *(held or ())])

    def _pass(self, spoken: str, text: str, *, final: bool) -> str:
        text = self._text + pauses.without_placeholders(text)
        out, position = [spoken], 0
        while position < len(text):
            if self._block == _COMMENT:
                end = text.find(_COMMENT_END, position)
                if end < 0:
                    position = len(text) if final else max(position, len(text) - len(_COMMENT_END) + 1)
                    break
                self._block, position = "", end + len(_COMMENT_END)
                continue
            found = _OPENER.search(text, position)
            start = found.start() if found else len(text)
            self._let_through(text[position:start], out)
            position = start
            if found:
                mark = self._read(text, start, final)
                if mark is None:
                    break
                self._apply(mark, text, start, out)
                position = mark.end
        self._text = text[position:]
        return "".join(out)

    def _let_through(self, piece: str, out: list[str]) -> None:
        if not piece:
            return
        if self._block:
            self._inner = piece[-citations.CONTEXT_CHARS :]
            return
        out = out if self._held is None else self._held
        if self._after_pause:
            piece = piece[_AFTER_PAUSE.match(piece).end() :]  # type: ignore[union-attr]
            if not piece:
                return
            self._after_pause = False
        if self._after_block:
            self._after_block = False
            if piece[0] in _JOINS:
                _strip_end(out)
            elif _ENDS_WORD.search(self._context) and not piece[0].isspace() and length(piece[0]) == 1:
                piece = f" {piece}"
        out.append(piece)
        self._since_block += len(piece)
        self._context = (self._context + piece)[-citations.CONTEXT_CHARS :]
        first, *lines = piece.split("\n")
        self._line = (self._line + first)[:_FENCE_CHARS]
        self._in_code ^= first.count("`") % 2 == 1
        for line in lines:
            if _FENCE.fullmatch(self._line):
                self._fenced = not self._fenced
            self._line = line[:_FENCE_CHARS]
            self._in_code = line.count("`") % 2 == 1

    def _read(self, text: str, start: int, final: bool) -> _Mark | None:
        """What stands at `start`; None if more text is needed to tell."""
        mark: _Mark | None
        if text.startswith(_COMMENT, start):
            mark, unfinished = _Mark(start + len(_COMMENT), "open", _COMMENT), None
        elif text[start] == "<":
            mark = (
                _read_token(text, start, final)
                or _read_element(text, start)
                or self._read_sup(text, start, final)
            )
            begun = _ELEMENT_BEGUN.match(text, start)
            unfinished = (
                _TOKEN_BEGUN.match(text, start)
                or (begun and (not begun["name"] or _is_known(begun["name"])))
                or pauses.UNFINISHED.match(text, start)
                or _SUP_BEGUN.match(text, start)
                or _COMMENT.startswith(text[start : start + len(_COMMENT)])
            )
        elif text[start] == "[":
            mark = _read_pair(_BRACKETED, text, start)
            unfinished = _BRACKETED_BEGUN.match(text, start) or pauses.UNFINISHED.match(text, start)
        else:
            mark = _read_pair(_TRIANGLES, text, start)
            unfinished = _TRIANGLES_BEGUN.match(text, start)
        if mark is None and text[start] in "<[" and (pause := pauses.read(text, start)):
            end, pause_ms = pause
            mark = _Mark(end, "pause", text=pauses.placeholder(pause_ms))
        if mark is None and not self._block and text[start] != "<":
            unfinished = unfinished or citations.is_unfinished(text, start)
            if (final or not unfinished) and not self._in_code and not self._fenced:
                end = citations.read(text, start, self._context)
                if end and not final and len(text) - end < 2:
                    return None
                mark = _Mark(end, "citation") if end else None
        if mark is None:
            return _Mark(start + 1, "text", text=text[start]) if final or not unfinished else None
        if mark.kind == "unfinished":
            return None
        if not final and len(text) - mark.end < 2 and self._depends_on_next(mark):
            return None
        return mark

    def _read_sup(self, text: str, start: int, final: bool) -> _Mark | None:
        """Raised digits, which are a citation or a power."""
        found = _SUP.match(text, start)
        if not found:
            return None
        if not final and found.end() == len(text):
            return _Mark(start, "unfinished")
        raised = found["digits"].translate(_RAISED)
        if found["open"] or citations.is_note(raised, self._context, text[found.end() : found.end() + 1]):
            return _Mark(found.end(), "citation")
        return _Mark(found.end(), "text", text=raised)

    @property
    def _before(self) -> str:
        """What a mark comes after."""
        return self._inner if self._block else self._context

    def _depends_on_next(self, mark: _Mark) -> bool:
        if mark.kind == "pause":
            return self._before.endswith("`")
        in_words = self._before[-1:] in _QUOTES or bool(_WITHIN_SENTENCE.search(self._before))
        return in_words and mark.kind in ("open", "close", "empty")

    def _is_quoted(self, text: str, end: int) -> bool:
        """Whether the mark that ends there stands in quotes by itself; not "Hi"</think>"Hi"."""
        closing = _QUOTES.get(self._before[-1:])
        return (
            closing is not None
            and self._before[-2:-1] in ("", " ", "\n", "(", "[")
            and text.startswith(closing, end)
        )

    def _is_mentioned(self, text: str, end: int) -> bool:
        """Whether the mark that ends there stands among the words of a sentence."""
        after = text[end : end + 2]
        follows = after[:1] in _JOINS or (after[:1] == " " and after[1:].islower())
        return follows and bool(_WITHIN_SENTENCE.search(self._before))

    def _apply(self, mark: _Mark, text: str, start: int, out: list[str]) -> None:
        quoted = self._is_quoted(text, mark.end)
        if self._block:
            self._apply_within(mark, text, quoted)
        elif mark.kind == "text":
            self._let_through(mark.text, out)
        elif mark.kind == "citation":
            _strip_end(out if self._held is None else self._held)
            self._after_block = True
        elif mark.kind == "pause":
            if quoted and self._context.endswith("`"):
                self._let_through(text[start : mark.end], out)
            else:
                self._after_block = self._after_pause = False
                self._let_through(mark.text, out)
                self._after_pause = bool(mark.text.strip())
        elif mark.kind != "token":
            self.removed_tags += 1
            if quoted or self._fenced:
                return
            mentioned = mark.block != _COMMENT and self._is_mentioned(text, mark.end)
            if mark.kind == "open":
                if not mentioned:
                    self._block, self._depth, self._inner = mark.block, 1, ""
                elif self._held is None:
                    self._hold(mark.block)
            elif mark.kind == "close" and self._held is not None and mark.block == self._mentioned:
                self._context, self._line, self._in_code, self._fenced = self._at_mention
                self._end_block()
                self._held = None
            elif mark.kind == "close" and not mentioned and _REASONING.fullmatch(mark.block[1:]):
                self._held = None
                before = "".join(out)
                out[:] = [before[: max(0, len(before) - self._since_block)]]
                self._context, self._line, self._in_code, self._fenced = (
                    out[0][-citations.CONTEXT_CHARS :],
                    "",
                    False,
                    False,
                )
                self._end_block()

    def _apply_within(self, mark: _Mark, text: str, quoted: bool) -> None:
        """A mark in a block that is open."""
        if mark.block == self._block == _MESSAGE:
            if mark.kind == "empty":  # a message for the listener begins
                self._end_block()
        elif mark.kind == "token" and (self._block[0] == "|" or self._block == _MESSAGE):
            self._end_block()
        elif mark.kind == "text":
            self._inner = (self._inner + mark.text)[-citations.CONTEXT_CHARS :]
        elif not quoted and mark.block == self._block and mark.kind == "open":
            self._depth += not self._is_mentioned(text, mark.end)
        elif not quoted and mark.block == self._block and mark.kind == "close":
            block, nested = self._block, self._depth > 1
            self._end_block()
            if nested and self._held is None:
                self._hold(block)  # spoken unless another end comes

    def _hold(self, block: str) -> None:
        """Keep what follows: it is spoken unless the end of `block` comes."""
        self._mentioned, self._held = block, []
        self._at_mention = self._context, self._line, self._in_code, self._fenced

    def _end_block(self) -> None:
        self._block, self._since_block, self._after_block = "", 0, True


def _strip_end(pieces: list[str]) -> None:
    if pieces:
        pieces[-1] = pieces[-1].rstrip(" \t\u00a0\u202f")


def _canonical(name: str) -> str:
    """A tag's name without its namespace, in one spelling."""
    return re.sub(r"[_-]", "", name.lower().rpartition(":")[2])


def _is_known(name: str) -> bool:
    name = _canonical(name)
    return name in _PAUSES or bool(_REASONING.fullmatch(name) or _MACHINE.fullmatch(name))


def _read_element(text: str, start: int) -> _Mark | None:
    found = _ELEMENT.match(text, start)
    if not found:
        return None
    name = _canonical(found["name"])
    if name in _PAUSES or not _is_known(name):
        return None
    kind = "close" if found["close"] else "empty" if found["rest"].endswith("/") else "open"
    return _Mark(found.end(), kind, f"<{name}")


def _read_pair(pattern: re.Pattern[str], text: str, start: int) -> _Mark | None:
    found = pattern.match(text, start)
    if not found:
        return None
    return _Mark(found.end(), "close" if found["close"] else "open", text[start] + _canonical(found["name"]))


def _read_token(text: str, start: int, final: bool) -> _Mark | None:
    """`<|name|>`, whose name says whether something begins or ends."""
    found = _TOKEN.match(text, start)
    if not found:
        return None
    name = found["name"].lower().replace("▁", "_")
    if name in ("im_start", "start_header_id"):
        if turn := _TURN.match(text, start):
            return _Mark(
                turn.end(),
                "open" if _HIDDEN_HEADER.search(turn["header"] or turn["header_"]) else "empty",
                _MESSAGE,
            )
        return _Mark(start, "unfinished") if not final and _TURN_BEGUN.match(text, start) else None
    if name in ("start", "channel"):
        if header := _HEADER.match(text, start):
            hidden = _HIDDEN_HEADER.search(header["header"])
            return _Mark(header.end(), "open" if hidden else "empty", _MESSAGE)
        if not final and (begun := _HEADER_BEGUN.match(text, start)) and begun.end() == len(text):
            return _Mark(start, "unfinished")
        return None
    if name in _END_TOKENS:
        return _Mark(found.end(), "token")
    core = _canonical(_TOKEN_AFFIXES.sub("", name))
    if not (_REASONING.fullmatch(core) or _MACHINE.fullmatch(core) or _TOKENS.fullmatch(core)):
        return None
    affix = _TOKEN_AFFIXES.search(name)
    closes = affix and (affix["close"] or affix["end"])
    return _Mark(found.end(), "close" if closes else "open", f"|{core}")
