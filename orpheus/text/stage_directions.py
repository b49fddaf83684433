"""Stage directions, "*Holds out hand* Nice to meet you.": left out where a request asks for it.

Stars and underscores are emphasis more often than not, so only what stands as a sentence of its own is taken: it begins
where a sentence may, and what follows it begins another. "He *really* did" stays, and so do "**Note** this" and, since
its sentence goes on in lower case, "*Really* good".
"""

from __future__ import annotations

import re

MAX_CHARS = 300  # of a direction; also what is held back until it is known to be one

_MARKS = re.compile(r"[*_]+")
_DIRECTION = re.compile(
    rf"\*(?![\s*])(?P<stars>[^*\n]{{1,{MAX_CHARS}}})(?<!\s)\*(?![a-z\d_*])"
    rf"|_(?![\s_])(?P<lines>[^_\n]{{1,{MAX_CHARS}}})(?<!\s)_(?![\w_])"
)
_BEGUN = re.compile(rf"\*(?:(?![\s*])[^*\n]{{0,{MAX_CHARS}}})?\Z|_(?:(?![\s_])[^_\n]{{0,{MAX_CHARS}}})?\Z")
_SENTENCE_STARTS = re.compile(
    "(?:\\A|\n|[.!?…。！？।॥؟۔։።။។།>\\]\u2600-\u27bf\ufe0f\U0001f300-\U0001faff][\"'”’)»」』]*)[ \t]*\\Z"
    r"|(?:\A|\n)[ \t]*(?:[-+*•>]|\d{1,3}[.)])[ \t]+\Z"
)
_SENTENCE_ENDS = tuple(".!?…。！？।॥؟۔։።။។།")
_AFTER = re.compile(r"(?P<stops>[.!?…]*)[ \t]*(?P<next>\S|\n)?")
_CONTEXT_CHARS = 12


class StageDirections:
    """Takes the directions out of a text, whole or as it arrives. Linear in the text."""

    def __init__(self) -> None:
        self.held = ""  # the end of the text so far, if it may be a direction
        self._context = ""  # what was passed on last

    def push(self, text: str) -> str:
        """What is certain to be read of the text so far and was not returned before."""
        return self._pass(text, final=False)

    def end(self) -> str:
        """The rest: the text is complete."""
        return self._pass("", final=True)

    def _pass(self, text: str, *, final: bool) -> str:
        text = self.held + text
        out: list[str] = []
        position = 0

        def read(end: int) -> None:
            nonlocal position
            piece, position = text[position:end], end
            out.append(piece)
            self._context = (self._context + piece)[-_CONTEXT_CHARS:]

        while marks := _MARKS.search(text, position):
            read(marks.start())
            if not _SENTENCE_STARTS.search(self._context):
                read(marks.end())
                continue
            if direction := _DIRECTION.match(text, position):
                after = _AFTER.match(text, direction.end())
                if not final and not (after and after["next"]):
                    break
                if after and _stands_alone(direction["stars"] or direction["lines"], after):
                    position = after.end("stops")
                    while text[position : position + 1] in (" ", "\t"):
                        position += 1
                    continue
            elif not final and _BEGUN.match(text, position):
                break
            read(marks.end())
        else:
            read(len(text))
        self.held = text[position:]
        return "".join(out)


def _stands_alone(direction: str, after: re.Match[str]) -> bool:
    """Whether words in marks, at the start of a sentence, are one."""
    letter = next((character for character in direction if character.isalpha()), "")
    following = after["next"] or "\n"
    if direction.endswith(_SENTENCE_ENDS):
        return True
    if following in ",;:)" and not after["stops"]:
        return False
    if letter.islower():
        return True
    if after["stops"]:
        return False
    if letter.isupper():
        return not following.islower()
    return following == "\n" or after.start("next") > after.start()
