"""Any text → the characters the checkpoints know: no controls, no emoji, plain quotes; line breaks stay.

Knows nothing of Markdown, words or sentences.
"""

from __future__ import annotations

import re
import unicodedata

# Punctuation outside the checkpoints' training text makes them skip words (Orpheus-FastAPI #71).
_PLAIN = {
    "‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "‟": '"',
    "…": "...", "‐": "-", "‑": "-", "–": "-", "—": " - ", "―": " - ", "→": " - ", "⇒": " - ",
    "‼": "!", "⁉": "?", "〜": "~", "⁓": "~", "−": "-",
}  # fmt: skip
_READ_ALOUD = frozenset("°©®™№℃℉")  # symbols a person says; the rest of their category are pictures
_BREAKS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
_JOINERS = "\u200c\u200d"  # part of the spelling of Hindi and Persian words, and of emoji
_KEYCAP, _TEXT_SELECTORS = "\u20e3", range(0xFE00, 0xFE10)
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_FANCY = (  # 𝓗, ﬁ, ７, Ｈ, ｈ; but no full-width punctuation, which is Chinese
    range(0x1D400, 0x1D800), range(0xFB00, 0xFB07), range(0xFF10, 0xFF1A), range(0xFF21, 0xFF3B), range(0xFF41, 0xFF5B),
)  # fmt: skip
_PICTURE = "\x1f"  # stands for one until the spaces around it are known
MOST_MARKS = 4  # on one letter. Vietnamese takes two; sorting 30,000 takes NFC two seconds

_JOINER_RUN = re.compile(f"([{_JOINERS}])[{_JOINERS}]+")
_STRAY_JOINER = re.compile(rf"(?<![^\x00-\x7f])[{_JOINERS}]|[{_JOINERS}](?![^\x00-\x7f])")
_GUILLEMETS = re.compile("« ?| ?»")
_HTML_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
_GAP = re.compile(f"[ {_PICTURE}]+")
_SPACES_AT_ENDS = re.compile(r" ?\n ?")


class _Table(dict[int, str | None]):
    """For str.translate: decides about a character once."""

    def __missing__(self, code: int) -> str | None:
        self[code] = new = _translated(chr(code))
        return new


def _translated(character: str) -> str | None:
    code, category = ord(character), unicodedata.category(character)
    if character in _BREAKS:
        return "\n"
    if character in _PLAIN:
        return _PLAIN[character]
    if any(code in block for block in _FANCY):
        return unicodedata.normalize("NFKC", character)
    if character in _JOINERS or character in _READ_ALOUD:
        return character
    if character == _KEYCAP or code in _TEXT_SELECTORS:
        return None
    if category in ("Cf", "Me"):  # zero-width, directions, soft hyphens, enclosing circles
        return None
    if category == "So" or code in _SKIN_TONES:
        return _PICTURE
    # Private use is ours: tags travel through the next stages as single characters of it.
    if category in ("Cc", "Cn", "Co", "Cs", "Zs", "Zl", "Zp"):
        return " "
    return character


_TABLE = _Table()


def plain(text: str) -> str:
    """`text` in NFC, with single spaces; pictures, controls and what cannot be seen are gone. Linear."""
    text = text.replace("\r\n", "\n").translate(_TABLE)
    if not text.isascii():
        text = _STRAY_JOINER.sub("", _JOINER_RUN.sub(r"\1", text))
        text = unicodedata.normalize("NFC", _few_marks(text))
    text = _HTML_BREAK.sub("\n", text)
    text = _SPACES_AT_ENDS.sub("\n", _GAP.sub(_gap, text)).strip()
    return _GUILLEMETS.sub('"', text)


def _gap(gap: re.Match[str]) -> str:
    """One space; none where only a picture stood before a mark, as in "great 🎉!"."""
    lone = _PICTURE in gap[0] and gap.string[gap.end() : gap.end() + 1] in tuple(".,;:!?)")
    return "" if lone else " "


def _few_marks(text: str) -> str:
    """At most MOST_MARKS combining marks in a row."""
    combining = unicodedata.combining
    if sum(map(bool, map(combining, text))) <= MOST_MARKS:
        return text
    kept, run = [], 0
    for character in text:
        run = run + 1 if combining(character) else 0
        if run <= MOST_MARKS:
            kept.append(character)
    return "".join(kept)
